/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The script under UEFI, as the kernel gets its initrd: from whoever answers to LINUX_EFI_INITRD_MEDIA_GUID, else the
 * file that `initrd=` names on the file system that this program was loaded from.
 */
#include "efi_stub.h"

/* As a boot loader has it by the header's initrd_addr_max. */
#define INITRD_BELOW (2 * GIB)
/* Some firmware fails on longer reads. */
#define READ_BYTES MIB
#define PATH_MAX 256

/* Load file 2 [13.2], simple file system [13.4], file info [13.5.16]. */
static const struct efi_guid load_file2_guid = {
	0x4006c0c1, 0xfcb3, 0x403e, { 0x99, 0x6d, 0x4a, 0x6c, 0x87, 0x24, 0xe0, 0x6d }
};
static const struct efi_guid file_system_guid = {
	0x964e5b22, 0x6459, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b }
};
static const struct efi_guid file_info_guid = {
	0x09576e92, 0x6d3f, 0x11d2, { 0x8e, 0x39, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b }
};

/* A vendor-defined media path [10.3.5.3] of LINUX_EFI_INITRD_MEDIA_GUID (Documentation/arch/x86/boot.rst). */
static const struct {
	struct efi_device_path vendor;
	struct efi_guid guid;
	struct efi_device_path end;
} initrd_path = {
	{ 4, 3, { 20, 0 } },
	{ 0x5568e427, 0x68fc, 0x4f3d, { 0xac, 0x74, 0xca, 0x55, 0x52, 0x31, 0xcc, 0x68 } },
	{ 0x7f, 0xff, { 4, 0 } },
};

int efi_initrd_room(struct efi_stub *s, u64 bytes)
{
	if (!bytes)
		return efi_complain(s, "the script is empty");
	s->initrd.start = efi_pages(s, bytes, INITRD_BELOW, "the script");
	s->initrd.bytes = bytes;
	return s->initrd.start != 0;
}

/* *there says whether anybody offers one. */
static int load_offered(struct efi_stub *s, int *there)
{
	const struct efi_device_path *path = &initrd_path.vendor;
	struct efi_load_file2 *file;
	efi_handle handle;
	u64 bytes = 0;

	*there = 0;
	if (s->boot->locate_device_path(&load_file2_guid, &path, &handle) != EFI_SUCCESS ||
	    s->boot->handle_protocol(handle, &load_file2_guid, (void **)&file) != EFI_SUCCESS)
		return 0;
	*there = 1;
	if (file->load(file, path, 0, &bytes, 0) != EFI_BUFFER_TOO_SMALL)
		return efi_complain(s, "the loader does not say how long its initrd is");
	if (!efi_initrd_room(s, bytes))
		return 0;
	if (file->load(file, path, 0, &bytes, (void *)s->initrd.start) != EFI_SUCCESS || bytes != s->initrd.bytes)
		return efi_complain(s, "the loader does not hand over its initrd");
	return 1;
}

static const char *option(const char *line, const char *key)
{
	const char *at = line;

	for (; *at; at++) {
		u32 i = 0;

		while (key[i] && at[i] == key[i])
			i++;
		if (!key[i] && (at == line || at[-1] == ' '))
			return at + i;
	}
	return 0;
}

static int read_whole(struct efi_stub *s, struct efi_file *file)
{
	u64 info[128], bytes = sizeof(info), done = 0;

	if (file->get_info(file, &file_info_guid, &bytes, info) != EFI_SUCCESS)
		return efi_complain(s, "initrd=: its size cannot be read");
	if (!efi_initrd_room(s, ((struct efi_file_info *)info)->file_bytes))
		return 0;
	while (done < s->initrd.bytes) {
		bytes = s->initrd.bytes - done < READ_BYTES ? s->initrd.bytes - done : READ_BYTES;
		if (file->read(file, &bytes, (void *)(s->initrd.start + done)) != EFI_SUCCESS || !bytes)
			return efi_complain(s, "initrd=: the file cannot be read to its end");
		done += bytes;
	}
	return 1;
}

static int load_named(struct efi_stub *s, const char *name)
{
	struct efi_file_system *file_system;
	struct efi_file *root, *file;
	efi_char path[PATH_MAX];
	u32 i;
	int done;

	for (i = 0; name[i] && name[i] != ' '; i++) {
		if (i == PATH_MAX - 1)
			return efi_complain(s, "initrd=: the path is longer than 255 characters");
		path[i] = name[i] == '/' ? '\\' : (u8)name[i];
	}
	path[i] = 0;
	if (option(name, "initrd="))
		return efi_complain(s, "more than one initrd= on the command line");
	if (!s->loaded->device ||
	    s->boot->handle_protocol(s->loaded->device, &file_system_guid, (void **)&file_system) != EFI_SUCCESS)
		return efi_complain(s, "initrd=: there is no file system where this was loaded from");
	if (file_system->open_volume(file_system, &root) != EFI_SUCCESS)
		return efi_complain(s, "initrd=: the file system cannot be opened");
	done = root->open(root, &file, path, EFI_FILE_MODE_READ, 0) == EFI_SUCCESS;
	if (done) {
		done = read_whole(s, file);
		file->close(file);
	} else {
		efi_complain(s, "initrd=: there is no such file");
	}
	root->close(root);
	return done;
}

int efi_initrd_load(struct efi_stub *s)
{
	const char *name = option(s->command_line, "initrd=");
	int there, loaded = load_offered(s, &there);

	if (there)
		return loaded;
	if (!name)
		return efi_complain(s, "there is no script: no loader offers an initrd, and no initrd= names one");
	return load_named(s, name);
}
