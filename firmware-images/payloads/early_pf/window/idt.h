/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EARLY_PF_IDT_H
#define EARLY_PF_IDT_H

#include "window.h"

/* Fills and loads the table of exception gates; before it any exception resets the machine. */
void idt_setup_early(void);

#endif
