/* SPDX-License-Identifier: Apache-2.0 */
/* What init needs of the kernel and of itself. Results below zero are negated error numbers. */
#ifndef BENCH_INIT_SYSTEM_H
#define BENCH_INIT_SYSTEM_H

#include <asm/errno.h>

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

long system_call(long number, long a, long b, long c, long d, long e);

long file_open(const char *path, int flags);
void file_close(long file);
/* One read. */
long file_get(long file, void *to, u64 room);
/* The whole file, at most `room` bytes; how many were read. */
long file_read(const char *path, void *to, u64 room);
long file_write(const char *path, const char *text);
/* The whole file in memory of its own, NULL if it cannot be had. */
void *file_map(const char *path, u64 *bytes);
void *memory(u64 bytes);

void mount_all(void);
long reboot(u32 command);
void pause_for_ever(void);

void print(const char *text, long bytes);
/* A line on the console, "bench-init: " in front. */
void say(const char *text);
void say_part(const char *text, const char *more, long more_bytes);
/* Decimal. */
void say_number(const char *text, long number);
/* "failed ERROR: WHAT" */
void say_failure(long error, const char *what, long what_bytes);

long length(const char *text);
int begins(const char *text, const char *with);
/* Ends the text at the next `at`; `rest` is what follows that. */
char *cut(char *text, char at, char **rest);
void copy(void *to, const void *from, u64 bytes);

#endif
