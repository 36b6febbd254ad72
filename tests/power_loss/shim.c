/*
 * Records, in order, what a process does to the files below a directory: preloaded into it.
 *
 * TRACE_ROOT is the directory, TRACE_FILE the file to append to. A record is a header line, `OP PID FD
 * A B LEN PATH PATH2`, and LEN bytes of data. Each call is made and recorded under one lock, so the
 * order in the trace is the order in which the calls took effect. A sync has two records: it covers what
 * was written before it began, and holds once it has ended.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_len;
static int trace = -1;
/* 1: a file below the directory; 2: opened to append. */
static unsigned char watched[FDS];

__attribute__((constructor)) static void begin(void)
{
    const char *dir = getenv("TRACE_ROOT"), *file = getenv("TRACE_FILE");
    if (!dir || !file || !realpath(dir, root))
        return;
    root_len = strlen(root);
    trace = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/*
 * Between these a call is made and recorded. Also under a lock of the trace, which whoever kills the process
 * holds meanwhile: a call that was made and not recorded would be missing from all that comes after it.
 */
static void take(void)
{
    pthread_mutex_lock(&lock);
    syscall(SYS_flock, trace, LOCK_EX);
}

static void give(void)
{
    syscall(SYS_flock, trace, LOCK_UN);
    pthread_mutex_unlock(&lock);
}

/* The path below the directory, or nothing. The program names its files absolutely. */
static const char *below(const char *path)
{
    if (trace < 0 || !path || strncmp(path, root, root_len) != 0)
        return NULL;
    if (path[root_len] == 0)
        return ".";
    return path[root_len] == '/' ? path + root_len + 1 : NULL;
}

static void record(const char *op, int fd, long a, const struct iovec *parts, int count, size_t len,
                   const char *path, const char *path2)
{
    char head[3 * PATH_MAX];
    int n = snprintf(head, sizeof head, "%s %d %d %ld %zu\t%s\t%s\n", op, getpid(), fd, a, len,
                     path ? path : "", path2 ? path2 : "");
    struct iovec all[66] = {{head, n}};
    int used = 1;
    for (int i = 0; i < count && len > 0 && used < 66; i++) {
        size_t part = parts[i].iov_len < len ? parts[i].iov_len : len;
        all[used].iov_base = parts[i].iov_base;
        all[used++].iov_len = part;
        len -= part;
    }
    if (len > 0)
        abort();
    if (syscall(SYS_writev, trace, all, used) < 0)
        abort();
}

static int is_watched(int fd)
{
    return trace >= 0 && fd >= 0 && fd < FDS && watched[fd];
}

#define REAL(ret, name, ...) \
    static ret (*real)(__VA_ARGS__); \
    if (!real) \
        real = (ret (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static int opened(int fd, const char *path, int flags)
{
    const char *name = below(path);
    if (fd >= 0 && fd < FDS) {
        watched[fd] = name ? ((flags & O_APPEND) ? 2 : 1) : 0;
        if (name)
            record("open", fd, (flags & O_TRUNC) ? 1 : 0, NULL, 0, 0, name,
                   (flags & O_DIRECTORY) ? "dir" : "");
    }
    return fd;
}

static int do_open(const char *path, int flags, mode_t mode)
{
    const char *name = below(path);
    struct stat found;
    if (!name)
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    take();
    int was_there = stat(path, &found) == 0;
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    int error = errno;
    if (fd >= 0) {
        if (!was_there)
            record("create", fd, 0, NULL, 0, 0, name, "");
        opened(fd, path, flags);
    }
    give();
    errno = error;
    return fd;
}

#define MODE(flags, mode) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return do_open(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return do_open(path, flags | O_LARGEFILE, mode); }

int openat(int dir, const char *path, int flags, ...)
{
    MODE(flags, mode)
    if (dir == AT_FDCWD || path[0] == '/')
        return do_open(path, flags, mode);
    return syscall(SYS_openat, dir, path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...)
{
    MODE(flags, mode)
    if (dir == AT_FDCWD || path[0] == '/')
        return do_open(path, flags, mode);
    return syscall(SYS_openat, dir, path, flags, mode);
}

int close(int fd)
{
    if (!is_watched(fd))
        return syscall(SYS_close, fd);
    take();
    watched[fd] = 0;
    record("close", fd, 0, NULL, 0, 0, NULL, NULL);
    int result = syscall(SYS_close, fd);
    int error = errno;
    give();
    errno = error;
    return result;
}

static ssize_t put(int fd, const struct iovec *parts, int count, off_t at, int positioned)
{
    take();
    if (!positioned)
        at = watched[fd] == 2 ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    ssize_t done = positioned ? syscall(SYS_pwritev, fd, parts, count, at, 0)
                              : syscall(SYS_writev, fd, parts, count);
    int error = errno;
    if (done > 0)
        record("write", fd, at, parts, count, done, NULL, NULL);
    give();
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t len)
{
    struct iovec part = {(void *)data, len};
    return is_watched(fd) ? put(fd, &part, 1, 0, 0) : syscall(SYS_write, fd, data, len);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return is_watched(fd) ? put(fd, parts, count > 64 ? 64 : count, 0, 0)
                          : syscall(SYS_writev, fd, parts, count);
}

static ssize_t do_pwrite(int fd, const void *data, size_t len, off_t at)
{
    struct iovec part = {(void *)data, len};
    return is_watched(fd) ? put(fd, &part, 1, at, 1) : syscall(SYS_pwrite64, fd, data, len, at);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return do_pwrite(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return do_pwrite(fd, data, len, at); }

static ssize_t do_pwritev(int fd, const struct iovec *parts, int count, off_t at)
{
    return is_watched(fd) ? put(fd, parts, count > 64 ? 64 : count, at, 1)
                          : syscall(SYS_pwritev, fd, parts, count, at, 0);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return do_pwritev(fd, parts, count, at); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) { return do_pwritev(fd, parts, count, at); }

static int do_truncate(int fd, off_t len)
{
    if (!is_watched(fd))
        return syscall(SYS_ftruncate, fd, len);
    take();
    int result = syscall(SYS_ftruncate, fd, len);
    int error = errno;
    if (result == 0)
        record("truncate", fd, len, NULL, 0, 0, NULL, NULL);
    give();
    errno = error;
    return result;
}

int ftruncate(int fd, off_t len) { return do_truncate(fd, len); }
int ftruncate64(int fd, off_t len) { return do_truncate(fd, len); }

static int synced(int fd, long call)
{
    if (!is_watched(fd))
        return syscall(call, fd);
    static long last;
    take();
    long number = ++last;
    record("sync", fd, number, NULL, 0, 0, NULL, NULL);
    give();
    int result = syscall(call, fd);
    int error = errno;
    take();
    if (result == 0)
        record("synced", fd, number, NULL, 0, 0, NULL, NULL);
    give();
    errno = error;
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* Moves neither metadata nor the drive's cache, so it makes nothing durable: not recorded. */
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags)
{
    return syscall(SYS_sync_file_range, fd, at, len, flags);
}

static int named(const char *op, int result, const char *path, const char *path2)
{
    int error = errno;
    if (result == 0)
        record(op, -1, 0, NULL, 0, 0, path, path2);
    give();
    errno = error;
    return result;
}

int rename(const char *from, const char *to)
{
    const char *a = below(from), *b = below(to);
    if (!a || !b)
        return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    take();
    return named("rename", syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0), a, b);
}

int unlink(const char *path)
{
    const char *a = below(path);
    if (!a)
        return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    take();
    return named("unlink", syscall(SYS_unlinkat, AT_FDCWD, path, 0), a, NULL);
}

int mkdir(const char *path, mode_t mode)
{
    const char *a = below(path);
    if (!a)
        return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    take();
    return named("mkdir", syscall(SYS_mkdirat, AT_FDCWD, path, mode), a, NULL);
}

int rmdir(const char *path)
{
    const char *a = below(path);
    if (!a)
        return syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
    take();
    return named("rmdir", syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR), a, NULL);
}
