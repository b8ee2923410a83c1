/*
 * failing-file BACKING MOUNTPOINT: a FUSE file system that shows one file, MOUNTPOINT/image, with the bytes and size of
 * BACKING, and makes reads or writes of chosen ranges fail with EIO.
 *
 * Ranges are set while it runs, by writing one command to MOUNTPOINT/control:
 *
 *   fail-read OFFSET LENGTH     reads that touch the range fail
 *   fail-write OFFSET LENGTH    writes, hole punching and zeroing that touch the range fail
 *   clear                       nothing fails any more
 *
 * A request that touches a failing byte fails whole, as a disk's does. The kernel's cache is bypassed, so a change of the
 * ranges holds for the very next request. It runs in the foreground, on one thread, until unmounted.
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_RANGES = 64 };

struct range {
  char operation; /* 'r' or 'w' */
  off_t start;
  off_t end;
};

static int backing = -1;
static struct range ranges[MAX_RANGES];
static int range_count = 0;

static int is_image(const char *path) { return strcmp(path, "/image") == 0; }
static int is_control(const char *path) { return strcmp(path, "/control") == 0; }

static int fails(char operation, off_t start, off_t length) {
  for (int i = 0; i < range_count; i++)
    if (ranges[i].operation == operation && start < ranges[i].end && ranges[i].start < start + length) return 1;
  return 0;
}

static int get_attributes(const char *path, struct stat *attributes, struct fuse_file_info *info) {
  (void)info;
  memset(attributes, 0, sizeof *attributes);
  if (strcmp(path, "/") == 0) {
    attributes->st_mode = S_IFDIR | 0700;
    attributes->st_nlink = 2;
    return 0;
  }
  if (is_control(path)) {
    attributes->st_mode = S_IFREG | 0600;
    attributes->st_nlink = 1;
    return 0;
  }
  if (!is_image(path)) return -ENOENT;
  if (fstat(backing, attributes) != 0) return -errno;
  attributes->st_ino = 0;
  return 0;
}

static int list(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *info,
                enum fuse_readdir_flags flags) {
  (void)offset, (void)info, (void)flags;
  if (strcmp(path, "/") != 0) return -ENOTDIR;
  fill(buffer, "image", NULL, 0, 0);
  fill(buffer, "control", NULL, 0, 0);
  return 0;
}

static int open_file(const char *path, struct fuse_file_info *info) {
  if (!is_image(path) && !is_control(path)) return -ENOENT;
  info->direct_io = 1;
  return 0;
}

static int read_file(const char *path, char *target, size_t length, off_t offset, struct fuse_file_info *info) {
  (void)info;
  if (!is_image(path)) return 0;
  if (fails('r', offset, (off_t)length)) return -EIO;
  ssize_t done = pread(backing, target, length, offset);
  return done < 0 ? -errno : (int)done;
}

static int command(const char *text) {
  char verb[16];
  long long start = 0, length = 0;
  int fields = sscanf(text, "%15s %lld %lld", verb, &start, &length);
  if (fields == 1 && strcmp(verb, "clear") == 0) {
    range_count = 0;
    return 0;
  }
  int is_read = fields == 3 && strcmp(verb, "fail-read") == 0;
  int is_write = fields == 3 && strcmp(verb, "fail-write") == 0;
  if (!is_read && !is_write) return -EINVAL;
  if (range_count == MAX_RANGES) return -ENOSPC;
  ranges[range_count++] = (struct range){is_read ? 'r' : 'w', start, start + length};
  return 0;
}

static int write_file(const char *path, const char *source, size_t length, off_t offset, struct fuse_file_info *info) {
  (void)info;
  if (is_control(path)) {
    char text[128];
    if (length >= sizeof text) return -EINVAL;
    memcpy(text, source, length);
    text[length] = '\0';
    int result = command(text);
    return result < 0 ? result : (int)length;
  }
  if (fails('w', offset, (off_t)length)) return -EIO;
  ssize_t done = pwrite(backing, source, length, offset);
  return done < 0 ? -errno : (int)done;
}

static int allocate_range(const char *path, int mode, off_t offset, off_t length, struct fuse_file_info *info) {
  (void)info;
  if (!is_image(path)) return -EOPNOTSUPP;
  if (fails('w', offset, length)) return -EIO;
  return fallocate(backing, mode, offset, length) != 0 ? -errno : 0;
}

static int truncate_file(const char *path, off_t length, struct fuse_file_info *info) {
  (void)info;
  if (is_control(path)) return 0; /* a shell's `>` truncates first */
  return ftruncate(backing, length) != 0 ? -errno : 0;
}

static int sync_file(const char *path, int data_only, struct fuse_file_info *info) {
  (void)path, (void)data_only, (void)info;
  return fsync(backing) != 0 ? -errno : 0;
}

static const struct fuse_operations operations = {
    .getattr = get_attributes,
    .readdir = list,
    .open = open_file,
    .read = read_file,
    .write = write_file,
    .fallocate = allocate_range,
    .truncate = truncate_file,
    .fsync = sync_file,
};

int main(int count, char **arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: %s BACKING MOUNTPOINT\n", arguments[0]);
    return 2;
  }
  backing = open(arguments[1], O_RDWR | O_CLOEXEC);
  if (backing < 0) {
    perror(arguments[1]);
    return 1;
  }
  char *fuse_arguments[] = {arguments[0], "-f", "-s", "-o", "fsname=blockmover-failing-file", arguments[2], NULL};
  return fuse_main(6, fuse_arguments, &operations, NULL);
}
