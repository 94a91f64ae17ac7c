/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog's source: channel 0 of the 8254 at 100 Hz, through the 8259, to the local APIC's LINT0 as an NMI. Masked
 * at the 8259; a window lets it through.
 */
#include "supervisor.h"

#define PIT_HZ 1193182
#define WATCHDOG_HZ 100

#define MSR_APIC_BASE 0x1b
#define APIC_BASE_X2APIC (1u << 10)
#define APIC_BASE_ENABLED (1u << 11)
#define APIC_SPURIOUS 0xf0
#define APIC_LVT_LINT0 0x350
#define APIC_SOFTWARE_ENABLE 0x1ff
#define LVT_NMI 0x400

static void apic_write(u64 base, u32 reg, u32 value)
{
	if (base & APIC_BASE_X2APIC)
		msr_write(0x800 + (reg >> 4), value);
	else
		*(volatile u32 *)((base & 0xffffff000ULL) + reg) = value;
}

void timer_init(void)
{
	u64 base = msr_read(MSR_APIC_BASE);

	/* 8259s: vectors 0x20 on, cascade on 2, automatic end of interrupt, all masked. */
	port_write(0x20, 0x11);
	port_write(0x21, 0x20);
	port_write(0x21, 0x04);
	port_write(0x21, 0x03);
	port_write(0xa0, 0x11);
	port_write(0xa1, 0x28);
	port_write(0xa1, 0x02);
	port_write(0xa1, 0x01);
	port_write(0x21, 0xff);
	port_write(0xa1, 0xff);

	/* Channel 0, low then high byte, mode 2. */
	port_write(0x43, 0x34);
	port_write(0x40, (PIT_HZ / WATCHDOG_HZ) & 0xff);
	port_write(0x40, (PIT_HZ / WATCHDOG_HZ) >> 8);

	if (!(base & APIC_BASE_ENABLED)) {
		base |= APIC_BASE_ENABLED;
		msr_write(MSR_APIC_BASE, base);
	}
	apic_write(base, APIC_SPURIOUS, APIC_SOFTWARE_ENABLE);
	apic_write(base, APIC_LVT_LINT0, LVT_NMI);
}
