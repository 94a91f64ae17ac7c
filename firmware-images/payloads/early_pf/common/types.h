/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EARLY_PF_TYPES_H
#define EARLY_PF_TYPES_H

/* All of a part is linked into one flat image: nothing is reached through a global offset table. */
#pragma GCC visibility push(hidden)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define MIB 0x100000ULL
#define GIB 0x40000000ULL
#define LARGE_PAGE_BYTES 0x200000ULL
#define ENTRIES 512

#endif
