# SPDX-License-Identifier: GPL-2.0-only
# Nothing that a compiler adds may run here: it would count on state that does not exist yet, or fault.

KASAN_SANITIZE := n
KCSAN_SANITIZE := n
KMSAN_SANITIZE := n
UBSAN_SANITIZE := n
KCOV_INSTRUMENT := n
GCOV_PROFILE := n
ccflags-remove-y += $(CC_FLAGS_FTRACE)
ccflags-y += -fno-stack-protector

obj-y := bench_trace.o bench_uart.o bench_facts.o bench_tables.o bench_script.o bench_access.o bench_ucode.o
