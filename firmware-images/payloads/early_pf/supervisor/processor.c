/* SPDX-License-Identifier: Apache-2.0 */
/* The processor's facts for `begin` (SDM vol. 2A, CPUID; vol. 4 for the registers). */
#include "supervisor.h"

#define MSR_PLATFORM_ID 0x17
#define MSR_UCODE_REVISION 0x8b
#define VENDOR_EBX_INTEL 0x756e6547
#define LEAF_HYPERVISOR 0x40000000
#define LEAF_EXTENDED 0x80000000

struct processor processor;

static u32 bit(u32 value, u32 number)
{
	return (value >> number) & 1;
}

void processor_init(void)
{
	u32 leaf_max = cpuid(0, 0).eax;
	u32 extended_max = cpuid(LEAF_EXTENDED, 0).eax;
	struct cpuid basic = cpuid(1, 0);
	u32 edx = cpuid(LEAF_EXTENDED + 1, 0).edx;

	processor.signature = basic.eax;
	processor.maxphyaddr = extended_max >= LEAF_EXTENDED + 8 ? cpuid(LEAF_EXTENDED + 8, 0).eax & 0xff : 36;
	processor.la57 = leaf_max >= 7 && bit(cpuid(7, 0).ecx, 16);
	processor.features = bit(edx, 20) << BENCH_FEATURE_NX | (u32)processor.la57 << BENCH_FEATURE_LA57 |
			     bit(edx, 26) << BENCH_FEATURE_GBPAGES | bit(basic.ecx, 31) << BENCH_FEATURE_HYPERVISOR;
	if (bit(basic.ecx, 31))
		processor.hypervisor = cpuid(LEAF_HYPERVISOR, 0).ebx;

	processor.intel = cpuid(0, 0).ebx == VENDOR_EBX_INTEL;
	if (processor.intel) {
		processor.platform_id = (u32)(msr_read(MSR_PLATFORM_ID) >> 50) & 7;
		/* The revision is put there by CPUID, into a register that must have been zero. */
		msr_write(MSR_UCODE_REVISION, 0);
		(void)cpuid(1, 0);
		processor.revision = (u32)(msr_read(MSR_UCODE_REVISION) >> 32);
	}
}
