// SPDX-License-Identifier: GPL-2.0-only
/* What `begin` and `boot` say of the processor, the kernel's place and the boot data. */
#include <linux/init.h>
#include <linux/pgtable.h>
#include <linux/version.h>
#include <asm/bench_trace.h>
#include <asm/bootparam.h>
#include <asm/fixmap.h>
#include <asm/sections.h>
#include <asm/setup.h>

#include "bench_image_id.h"
#include "bench_internal.h"

#define MSR_PLATFORM_ID 0x17
#define MSR_UCODE_REVISION 0x8b
#define MSR_EFER_NUMBER 0xc0000080
#define VENDOR_EBX_INTEL 0x756e6547
#define LEAF_HYPERVISOR 0x40000000
#define LEAF_EXTENDED 0x80000000

struct cpuid {
	u32 eax, ebx, ecx, edx;
};

static struct cpuid cpuid_read(u32 leaf)
{
	struct cpuid r;

	asm volatile("cpuid" : "=a" (r.eax), "=b" (r.ebx), "=c" (r.ecx), "=d" (r.edx) : "a" (leaf), "c" (0) : "memory");
	return r;
}

static u64 msr_read(u32 number)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a" (low), "=d" (high) : "c" (number));
	return (u64)high << 32 | low;
}

static u64 __init phys(const void *symbol)
{
	return (unsigned long)symbol - __START_KERNEL_map + phys_base;
}

/*
 * Both registers are there from the Pentium II on, family 6 model 5 (SDM vol. 4); a read of one that is not would be
 * the end, since there is no handler yet.
 */
bool bench_knows_revision(void)
{
	u32 signature = cpuid_read(1).eax;
	u32 family = signature >> 8 & 15, model = (signature >> 4 & 15) | (signature >> 12 & 0xf0);

	return cpuid_read(0).ebx == VENDOR_EBX_INTEL && (family > 6 || (family == 6 && model >= 5));
}

/* The revision is put there by CPUID, into a register that must have been zero. */
u32 bench_revision(void)
{
	asm volatile("wrmsr" : : "c" (MSR_UCODE_REVISION), "a" (0), "d" (0));
	(void)cpuid_read(1);
	return msr_read(MSR_UCODE_REVISION) >> 32;
}

static void __init processor_facts(void)
{
	u32 leaf_max = cpuid_read(0).eax, extended_max = cpuid_read(LEAF_EXTENDED).eax;
	u32 extended = cpuid_read(LEAF_EXTENDED + 1).edx;
	struct cpuid basic = cpuid_read(1);
	u32 la57 = leaf_max >= 7 ? cpuid_read(7).ecx >> 16 & 1 : 0, hypervisor = basic.ecx >> 31;

	bench_number(BENCH_BEGIN_LEVELS, bench_cr4() >> 12 & 1 ? 5 : 4);
	bench_number(BENCH_BEGIN_SIGNATURE, basic.eax);
	bench_number(BENCH_BEGIN_FEATURES, (extended >> 20 & 1) << BENCH_FEATURE_NX | la57 << BENCH_FEATURE_LA57 |
		     (extended >> 26 & 1) << BENCH_FEATURE_GBPAGES | hypervisor << BENCH_FEATURE_HYPERVISOR);
	bench_number(BENCH_BEGIN_MAXPHYADDR,
		     extended_max >= LEAF_EXTENDED + 8 ? cpuid_read(LEAF_EXTENDED + 8).eax & 0xff : 36);
	if (hypervisor)
		bench_number(BENCH_BEGIN_HYPERVISOR, cpuid_read(LEAF_HYPERVISOR).ebx);
	if (bench_knows_revision()) {
		bench_number(BENCH_BEGIN_PLATFORM_ID, msr_read(MSR_PLATFORM_ID) >> 50 & 7);
		bench_number(BENCH_BEGIN_REVISION, bench_revision());
	}
}

void __init bench_facts(void)
{
	bench_number(BENCH_BEGIN_WIRE, BENCH_WIRE_VERSION);
	bench_number(BENCH_BEGIN_IMAGE, BENCH_IMAGE_ID);
	bench_number(BENCH_BEGIN_VARIANT,
		     LINUX_VERSION_CODE < KERNEL_VERSION(7, 0, 0) ? BENCH_VARIANT_V6_1 : BENCH_VARIANT_V7_3);
	bench_number(BENCH_BEGIN_POOL, BENCH_POOL);
	processor_facts();
	bench_number(BENCH_BEGIN_EFER, msr_read(MSR_EFER_NUMBER));
	bench_number(BENCH_BEGIN_CR3, bench_cr3());
	bench_number(BENCH_BEGIN_CR4, bench_cr4());
	bench_number(BENCH_BEGIN_CR2, bench_cr2());
	bench_number(BENCH_BEGIN_PHYS_BASE, phys_base);
	bench_page_offset(BENCH_BEGIN_PAGE_OFFSET);
	bench_number(BENCH_BEGIN_PHYS_TEXT, phys(_text));
	bench_number(BENCH_BEGIN_PHYS_END, phys(_end));
	bench_number(BENCH_BEGIN_PHYS_TOP, phys(early_top_pgt));
	bench_number(BENCH_BEGIN_PHYS_DYNAMIC, phys(early_dynamic_pgts));
	bench_number(BENCH_BEGIN_PHYS_KERNEL, early_top_pgt[BENCH_ENTRIES - 1].pgd & PTE_PFN_MASK);
	bench_number(BENCH_BEGIN_PHYS_LEVEL3, phys(level3_kernel_pgt));
	bench_number(BENCH_BEGIN_PHYS_FIXMAP, phys(&level2_fixmap_pgt[pmd_index(__fix_to_virt(FIX_BTMAP_BEGIN))]));
}

/* ---- The boot data ---- */

/* What follows `name` at `text`; NULL if something else is there. */
static const char * __init after(const char *text, const char *name)
{
	while (*name)
		if (*text++ != *name++)
			return NULL;
	return text;
}

const char * __init bench_option(const char *name)
{
	const char *text = boot_command_line, *last = NULL;
	char before = ' ';

	for (; *text; before = *text++)
		if (before == ' ' && after(text, name))
			last = after(text, name);
	return last;
}

static bool __init option_is(const char *name)
{
	const char *end = bench_option(name);

	return end && (!*end || *end == ' ');
}

static u64 __init number(const char *text, u32 base)
{
	u64 value = 0;

	for (; text && *text && *text != ' '; text++) {
		u32 digit = *text >= 'a' ? *text - 'a' + 10 : *text >= 'A' ? *text - 'A' + 10 : *text - '0';

		if (digit >= base)
			return 0;
		value = value * base + digit;
	}
	return value;
}

static void __init read_options(u64 *pool)
{
	const char *limit = bench_option("bench.pool=");

	bench.nonce = number(bench_option("bench.nonce="), 16);
	bench.pool_keep = option_is("bench.pool_keep");
	if (option_is("bench.done=boot"))
		bench.done_when = BENCH_DONE_AT_BOOT;
	if (option_is("bench.done=init"))
		bench.done_when = BENCH_DONE_AT_INIT;
	*pool = limit ? number(limit, 10) : BENCH_POOL;
}

void __init bench_trace_boot(unsigned long real_mode_data)
{
	u64 initrd = boot_params.hdr.ramdisk_image | (u64)boot_params.ext_ramdisk_image << 32;
	u64 initrd_bytes = boot_params.hdr.ramdisk_size | (u64)boot_params.ext_ramdisk_size << 32;
	u64 pool;

	if (!bench.open)
		return;
	read_options(&pool);
	if (pool >= 1 && pool <= BENCH_POOL)
		bench_pool_limit = pool;
	bench_nonce();
	bench_open(BENCH_BOOT);
	bench_number(BENCH_BOOT_NONCE, bench.nonce);
	bench_number(BENCH_BOOT_INITRD, initrd);
	bench_number(BENCH_BOOT_INITRD_BYTES, initrd_bytes);
	bench_number(BENCH_BOOT_REAL_MODE_DATA, real_mode_data);
	bench_number(BENCH_BOOT_COMMAND_LINE_AT,
		     boot_params.hdr.cmd_line_ptr | (u64)boot_params.ext_cmd_line_ptr << 32);
	if (bench_pool_limit != bench.pool_given)
		bench_number(BENCH_BOOT_POOL, bench_pool_limit);
	bench.pool_given = bench_pool_limit;
	bench_text(BENCH_BOOT_COMMAND_LINE, boot_command_line);
	bench_close();
	/* Before later tables are taken, the trampoline's remains are still in the pool. */
	bench_digest();
	if (pool < 1 || pool > BENCH_POOL)
		bench_refuse(0, "bench.pool is not a number from 1 to 64");
	else if (option_is("bench.script"))
		bench_exercise(initrd, initrd_bytes);
}
