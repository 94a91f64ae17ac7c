/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this program uses of UEFI, and no more. Numbers in brackets are sections of the UEFI specification 2.10.
 * Tables name their members up to the last one that is used; what is not used is a pointer-sized filler.
 */
#ifndef EARLY_PF_EFI_H
#define EARLY_PF_EFI_H

#include "../common/types.h"

/* [2.3.4.2] Services are called as Microsoft's compilers call functions. */
#define EFIAPI __attribute__((ms_abi))

typedef u64 efi_status;
typedef void *efi_handle;
typedef u16 efi_char;

/* [appendix D] */
#define EFI_SUCCESS 0ULL
#define EFI_ERROR_BIT (1ULL << 63)
#define EFI_LOAD_ERROR (EFI_ERROR_BIT | 1)
#define EFI_BUFFER_TOO_SMALL (EFI_ERROR_BIT | 5)

#define EFI_PAGE_BYTES 4096ULL

/* [appendix A] */
struct efi_guid {
	u32 a;
	u16 b, c;
	u8 d[8];
};

/* [4.2] */
struct efi_table_header {
	u64 signature;
	u32 revision, bytes, crc, reserved;
};

/* [7.2, 7.2.1] */
enum efi_allocate_type { EFI_ALLOCATE_ANY, EFI_ALLOCATE_MAX_ADDRESS, EFI_ALLOCATE_ADDRESS };

/* [7.2, 7.2.3] */
enum efi_memory_type {
	EFI_RESERVED,
	EFI_LOADER_CODE,
	EFI_LOADER_DATA,
	EFI_BOOT_SERVICES_CODE,
	EFI_BOOT_SERVICES_DATA,
	EFI_RUNTIME_CODE,
	EFI_RUNTIME_DATA,
	EFI_CONVENTIONAL,
	EFI_UNUSABLE,
	EFI_ACPI_RECLAIM,
	EFI_ACPI_NVS,
	EFI_MMIO,
	EFI_MMIO_PORTS,
	EFI_PAL_CODE,
	EFI_PERSISTENT,
	EFI_UNACCEPTED,
};

/* [7.2.3] Memory that a device is to have, such as a GPU; it is not for everybody. */
#define EFI_MEMORY_SPECIFIC_PURPOSE 0x40000ULL

/* [7.2.3] `pages` of EFI_PAGE_BYTES. The next one lies as far behind as GetMemoryMap says, not sizeof. */
struct efi_memory_descriptor {
	u32 type, unused;
	u64 start;
	u64 virt_start;
	u64 pages;
	u64 attributes;
};

struct efi_memory_map {
	u8 *descriptors;
	u64 bytes;
	u64 key;
	u64 descriptor_bytes;
	u32 version;
};

/* [10.2] */
struct efi_device_path {
	u8 type, subtype;
	u8 bytes[2];
};

/* [4.4] */
struct efi_boot_services {
	struct efi_table_header header;
	void *tpl[2];
	efi_status(EFIAPI *allocate_pages)(u32 type, u32 memory_type, u64 pages, u64 *address);
	efi_status(EFIAPI *free_pages)(u64 address, u64 pages);
	efi_status(EFIAPI *get_memory_map)(u64 *bytes, void *map, u64 *key, u64 *descriptor_bytes, u32 *version);
	void *pool[2];
	void *events[6];
	void *install[3];
	efi_status(EFIAPI *handle_protocol)(efi_handle handle, const struct efi_guid *guid, void **interface);
	void *reserved;
	void *notify[2];
	efi_status(EFIAPI *locate_device_path)(const struct efi_guid *guid, const struct efi_device_path **path,
					       efi_handle *handle);
	void *configuration;
	void *load[2];
	efi_status(EFIAPI *exit)(efi_handle image, efi_status status, u64 bytes, const efi_char *why);
	void *unload;
	efi_status(EFIAPI *exit_boot_services)(efi_handle image, u64 key);
};

/* [4.3] */
struct efi_system_table {
	struct efi_table_header header;
	const efi_char *vendor;
	u64 revision;
	void *consoles[6];
	void *runtime;
	const struct efi_boot_services *boot;
};

/* [9.1] */
struct efi_loaded_image {
	u64 revision;
	efi_handle parent;
	void *system;
	efi_handle device;
	void *path;
	void *reserved;
	u32 options_bytes;
	const efi_char *options;
};

/* [13.2] A file that firmware hands over; instance of LINUX_EFI_INITRD_MEDIA_GUID: the initrd. */
struct efi_load_file2 {
	efi_status(EFIAPI *load)(struct efi_load_file2 *self, const struct efi_device_path *path, u8 boot_policy,
				 u64 *bytes, void *buffer);
};

/* [13.5] */
struct efi_file {
	u64 revision;
	efi_status(EFIAPI *open)(struct efi_file *self, struct efi_file **opened, const efi_char *name, u64 mode,
				 u64 attributes);
	efi_status(EFIAPI *close)(struct efi_file *self);
	void *remove;
	efi_status(EFIAPI *read)(struct efi_file *self, u64 *bytes, void *buffer);
	void *write;
	void *position[2];
	efi_status(EFIAPI *get_info)(struct efi_file *self, const struct efi_guid *guid, u64 *bytes, void *buffer);
};

#define EFI_FILE_MODE_READ 1

/* [13.5.16] What stands before the name. */
struct efi_file_info {
	u64 bytes_with_name;
	u64 file_bytes;
	u64 rest[8];
};

/* [13.4] */
struct efi_file_system {
	u64 revision;
	efi_status(EFIAPI *open_volume)(struct efi_file_system *self, struct efi_file **root);
};

#endif
