/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor.h"

/* Registers of an 8250 and its successors, as offsets from the base. */
#define INTERRUPT_ENABLE 1
#define FIFO_CONTROL 2
#define INTERRUPT_ID 2
#define LINE_CONTROL 3
#define MODEM_CONTROL 4

/* 115200 baud, 8 data bits, no parity, 1 stop bit, FIFOs where there are any. */
void uart_init(u16 base)
{
	port_write((u16)(base + INTERRUPT_ENABLE), 0);
	port_write((u16)(base + LINE_CONTROL), 0x83);
	port_write(base, 1);
	port_write((u16)(base + 1), 0);
	port_write((u16)(base + LINE_CONTROL), 0x03);
	port_write((u16)(base + FIFO_CONTROL), 0x07);
	port_write((u16)(base + MODEM_CONTROL), 0x03);

	uart.base = base;
	uart.depth = (port_read((u16)(base + INTERRUPT_ID)) & 0xc0) == 0xc0 ? 16 : 1;
	uart.room = 0;
	uart.patience = UART_PATIENCE;
}
