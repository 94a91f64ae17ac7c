/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of /bench/steps. `rest` is what stands behind the word; a result below zero is a negated error number. */
#ifndef BENCH_INIT_STEPS_H
#define BENCH_INIT_STEPS_H

/* show.c: what is printed. */
long step_say(char *rest);
long step_show(char *rest);
long step_log(char *rest);
long step_cpuinfo(char *rest);

/* act.c: what is done. */
long step_put(char *rest);
long step_move(char *rest);
long step_hotplug(char *rest);
long step_suspend(char *rest);
long step_kexec(char *rest);

/* kexec.c: loads /kexec/kernel, /kexec/initrd and /kexec/cmdline for the next kernel, at the address in /kexec/place. */
long kexec_prepare(void);

#endif
