/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EARLY_PF_FINAL_H
#define EARLY_PF_FINAL_H

void load_final_tables(void);

#endif
