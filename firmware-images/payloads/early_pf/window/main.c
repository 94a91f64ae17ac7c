/* SPDX-License-Identifier: Apache-2.0 */
/* A window from its first C instruction: begin, the first reset, the gates, boot, the script's steps, end. */
#include "final.h"
#include "idt.h"
#include "tracer.h"

typedef void access_function(u64 from, u64 to, u64 value);

struct access_site {
	access_function *run;
	u64 ip;
};

extern const struct access_site access_sites[4][4][2];
extern const struct step steps[STEPS_MAX];

static void trace_facts(void)
{
	u64 top = early_top_pgt[ENTRIES - 1];

	tracer.cr4_given = cr4_read();
	record_open(BENCH_BEGIN);
	record_number(BENCH_BEGIN_WIRE, BENCH_WIRE_VERSION);
	record_number(BENCH_BEGIN_IMAGE, BENCH_IMAGE_ID);
	record_number(BENCH_BEGIN_WINDOW, handoff.window);
	record_number(BENCH_BEGIN_VARIANT, handoff.variant);
	record_number(BENCH_BEGIN_MEND, handoff.mend);
	record_number(BENCH_BEGIN_POOL, handoff.pool);
	record_number(BENCH_BEGIN_LEVELS, handoff.levels);
	record_number(BENCH_BEGIN_SIGNATURE, handoff.signature);
	record_number(BENCH_BEGIN_FEATURES, handoff.features);
	record_number(BENCH_BEGIN_MAXPHYADDR, handoff.maxphyaddr);
	record_number(BENCH_BEGIN_HYPERVISOR, handoff.hypervisor);
	record_number(BENCH_BEGIN_PLATFORM_ID, handoff.platform_id);
	record_number(BENCH_BEGIN_REVISION, handoff.revision);
	record_number(BENCH_BEGIN_EFER, msr_read(MSR_EFER));
	record_number(BENCH_BEGIN_CR3, cr3_read());
	record_number(BENCH_BEGIN_CR4, tracer.cr4_given);
	record_number(BENCH_BEGIN_CR2, cr2_read());
	record_number(BENCH_BEGIN_PHYS_BASE, phys_base);
	record_number(BENCH_BEGIN_PAGE_OFFSET, policy.page_offset);
	record_number(BENCH_BEGIN_PHYS_TEXT, phys(_text));
	record_number(BENCH_BEGIN_PHYS_END, phys(_end));
	record_number(BENCH_BEGIN_PHYS_TOP, phys(early_top_pgt));
	record_number(BENCH_BEGIN_PHYS_DYNAMIC, phys(early_dynamic_pgts));
	record_number(BENCH_BEGIN_PHYS_KERNEL, top & 0x000ffffffffff000ULL);
	record_close();
}

static void trace_boot_data(void)
{
	handoff.wire.nonce = handoff.nonce;
	record_open(BENCH_BOOT);
	record_number(BENCH_BOOT_NONCE, handoff.nonce);
	record_number(BENCH_BOOT_INITRD, handoff.initrd);
	record_number(BENCH_BOOT_INITRD_BYTES, handoff.initrd_bytes);
	record_text(BENCH_BOOT_COMMAND_LINE, handoff.command_line);
	record_close();
}

static void refuse(const struct step *s) __attribute__((noreturn));

static void refuse(const struct step *s)
{
	static const char *const reasons[] = {
		[REFUSAL_NOT_RAM] = "not RAM by the memory map",
		[REFUSAL_OWN_MEMORY] = "a write or fetch here would hit the payload, its tables or its script",
		[REFUSAL_NOT_INTEL] = "updates of microcode are for Intel's processors only",
	};

	tracer.busy = 1;
	record_open(BENCH_REFUSE);
	record_number(BENCH_REFUSE_STEP, tracer.step);
	record_number(BENCH_REFUSE_ADDRESS, s->refuse_to ? s->to : s->from);
	record_text(BENCH_REFUSE_WHY, reasons[s->refusal]);
	record_close();
	window_end(BENCH_OUTCOME_REFUSED);
}

static void touch(const struct step *s)
{
	const struct access_site *site = &access_sites[s->access][__builtin_ctz(s->size)][s->fixup];

	tracer.busy = 1;
	tracer.touches++;
	record_open(BENCH_TOUCH);
	record_number(BENCH_TOUCH_STEP, tracer.step);
	record_number(BENCH_TOUCH_ACCESS, s->access);
	record_number(BENCH_TOUCH_VA, s->from);
	record_number(BENCH_TOUCH_VA_TO, s->to);
	record_number(BENCH_TOUCH_SIZE, s->size);
	record_number(BENCH_TOUCH_FIXUP, s->fixup);
	record_number(BENCH_TOUCH_IP, site->ip - KERNEL_MAP);
	record_close();
	tracer.busy = 0;

	site->run(s->from, s->to, s->value);
}

static void run_step(const struct step *s)
{
	if (s->refusal)
		refuse(s);
	switch (s->op) {
	case STEP_FINAL:
		load_final_tables();
		break;
	case STEP_DIGEST:
		trace_digest();
		break;
	case STEP_DUMP:
		trace_dump();
		break;
	case STEP_UCODE:
		offer_update(s->from, s->to);
		break;
	default:
		touch(s);
	}
}

void window_main(void)
{
	u32 i;

	policy_init();
	trace_facts();
	reset_early_page_tables();
	idt_setup_early();
	trace_boot_data();
	watchdog_start();
	for (i = 0; i < handoff.steps; i++) {
		trace_step(i);
		run_step(&steps[i]);
	}
	window_end(BENCH_OUTCOME_DONE);
}
