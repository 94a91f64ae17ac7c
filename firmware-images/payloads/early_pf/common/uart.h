/* SPDX-License-Identifier: Apache-2.0 */
/* An 8250-compatible UART on I/O ports, polled. Every wait is bounded. */
#ifndef EARLY_PF_UART_H
#define EARLY_PF_UART_H

#include "io.h"

#define UART_LINE_STATUS 5
#define UART_EMPTY 0x20
/* Reads of the line status, about 1 us each on silicon. */
#define UART_PATIENCE (1u << 24)
#define UART_PATIENCE_DEAD (1u << 10)

/* depth: bytes taken after "empty"; room: how many of these are left; patience: polls before giving up. */
struct uart {
	u16 base;
	u8 depth;
	u8 room;
	u32 patience;
};

static inline void uart_put(struct uart *u, char c)
{
	if (!u->room) {
		u32 left = u->patience;

		while (left && !(port_read((u16)(u->base + UART_LINE_STATUS)) & UART_EMPTY))
			left--;
		/* A port that is dead once costs little from then on. */
		u->patience = left ? UART_PATIENCE : UART_PATIENCE_DEAD;
		u->room = u->depth;
	}
	u->room--;
	port_write(u->base, (u8)c);
}

#endif
