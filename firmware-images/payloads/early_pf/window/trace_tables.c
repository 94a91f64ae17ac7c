/* SPDX-License-Identifier: Apache-2.0 */
/* The tables as they lie in memory: one number for all of them, or every run of entries. */
#include "tracer.h"

#define DIGEST_BYTES ((1 + 64) * 4096)
#define TABLES (1 + 64)

/* CRC-32, eight bytes a step: lookup[k][b] is byte b followed by k zero bytes. */
static u32 lookup[8][256];

static void lookup_init(void)
{
	u32 b, k;

	for (b = 0; b < 256; b++)
		lookup[0][b] = bench_wire_crc_step(b, 0);
	for (k = 1; k < 8; k++)
		for (b = 0; b < 256; b++)
			lookup[k][b] = (lookup[k - 1][b] >> 8) ^ lookup[0][lookup[k - 1][b] & 255];
}

/* The top table and the pool follow each other in memory. */
static u32 tables_crc(void)
{
	const volatile u64 *word = early_top_pgt;
	u32 crc = ~0u, i;

	if (!lookup[0][1])
		lookup_init();
	for (i = 0; i < DIGEST_BYTES / 8; i++) {
		u64 v = word[i] ^ crc;

		crc = lookup[7][v & 255] ^ lookup[6][(v >> 8) & 255] ^ lookup[5][(v >> 16) & 255] ^
		      lookup[4][(v >> 24) & 255] ^ lookup[3][(v >> 32) & 255] ^ lookup[2][(v >> 40) & 255] ^
		      lookup[1][(v >> 48) & 255] ^ lookup[0][v >> 56];
	}
	return ~crc;
}

void trace_digest(void)
{
	u32 crc;

	tracer.busy = 1;
	crc = tables_crc();
	record_open(BENCH_DIGEST);
	record_number(BENCH_DIGEST_STEP, tracer.step);
	record_number(BENCH_DIGEST_CRC, crc);
	record_number(BENCH_DIGEST_NEXT, next_early_pgt);
	record_close();
	tracer.busy = 0;
}

/* One table: a run goes on as long as the difference stays and no entry is zero. */
static void dump_table(u32 number, const volatile u64 *table)
{
	u32 start, count;

	for (start = 0; start < ENTRIES; start += count) {
		u64 stride = 0;

		count = 1;
		if (!table[start])
			continue;
		if (start + 1 < ENTRIES && table[start + 1]) {
			stride = table[start + 1] - table[start];
			for (count = 2; start + count < ENTRIES; count++)
				if (!table[start + count] || table[start + count] - table[start + count - 1] != stride)
					break;
		}
		record_open(BENCH_DUMP);
		record_number(BENCH_DUMP_STEP, tracer.step);
		record_number(BENCH_DUMP_TABLE, number);
		record_number(BENCH_DUMP_INDEX, start);
		record_number(BENCH_DUMP_COUNT, count);
		record_number(BENCH_DUMP_ENTRY, table[start]);
		record_number(BENCH_DUMP_STRIDE, stride);
		record_close();
	}
}

void trace_dump(void)
{
	u32 i;

	tracer.busy = 1;
	for (i = 0; i < TABLES; i++)
		dump_table(i, i ? early_dynamic_pgts[i - 1] : early_top_pgt);
	tracer.busy = 0;
}
