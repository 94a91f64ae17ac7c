// SPDX-License-Identifier: GPL-2.0-only
/* The first serial port of a PC, an 8250 or a successor on I/O ports, polled. Every wait is bounded. */
#include <linux/init.h>

#include "bench_internal.h"

#define PORT 0x3f8
#define INTERRUPT_ENABLE 1
#define FIFO_CONTROL 2
#define LINE_CONTROL 3
#define MODEM_CONTROL 4
#define LINE_STATUS 5
#define EMPTY 0x20

/* Reads of the line status, about 1 us each on silicon. */
#define PATIENCE (1u << 24)
#define PATIENCE_DEAD (1u << 10)

static u32 patience __bench_data = PATIENCE;

static u8 port_read(u16 offset)
{
	u8 value;

	asm volatile("inb %w1, %b0" : "=a" (value) : "Nd" ((u16)(PORT + offset)));
	return value;
}

static void port_write(u16 offset, u8 value)
{
	asm volatile("outb %b0, %w1" : : "a" (value), "Nd" ((u16)(PORT + offset)));
}

/* 115200 baud, 8 data bits, no parity, 1 stop bit. */
void __init bench_uart_init(void)
{
	port_write(INTERRUPT_ENABLE, 0);
	port_write(LINE_CONTROL, 0x83);
	port_write(0, 1);
	port_write(1, 0);
	port_write(LINE_CONTROL, 0x03);
	port_write(FIFO_CONTROL, 0x07);
	port_write(MODEM_CONTROL, 0x03);
}

void bench_uart_put(char c)
{
	u32 left = patience;

	while (left && !(port_read(LINE_STATUS) & EMPTY))
		left--;
	/* A port that is dead once costs little from then on. */
	patience = left ? PATIENCE : PATIENCE_DEAD;
	port_write(0, c);
}
