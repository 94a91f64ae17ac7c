/* SPDX-License-Identifier: Apache-2.0 */
/* Offsets in boot_params (Documentation/arch/x86/zero-page.rst). Used from C and from assembly. */
#ifndef EARLY_PF_BOOT_PARAMS_H
#define EARLY_PF_BOOT_PARAMS_H

#define EXT_RAMDISK_IMAGE 0xc0
#define EXT_RAMDISK_SIZE 0xc4
#define EXT_CMD_LINE_PTR 0xc8
#define E820_COUNT 0x1e8
#define SETUP_HEADER 0x1f1
#define CODE32_START 0x214
#define RAMDISK_IMAGE 0x218
#define RAMDISK_SIZE 0x21c
#define CMD_LINE_PTR 0x228
#define E820_MAP 0x2d0

#define E820_MAX 128
#define E820_BYTES 20
#define E820_RAM 1

#endif
