/* SPDX-License-Identifier: Apache-2.0 */
/* In place of the payload's io.h: what a user's program may not do, it does not do. */
#define EARLY_PF_IO_H
#include "../firmware-images/payloads/early_pf/common/types.h"

void port_write(u16 port, u8 value);
u8 port_read(u16 port);
u64 cr4_read(void);

/* This program has a C library. */
#pragma GCC visibility pop
