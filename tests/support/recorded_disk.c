/* Preloaded into a process: writes down, in order, what it does to the files of one folder (RECORDED_FOLDER), so that a test can
   build the disks that a power failure at any moment might have left. A record: "op name offset length\n" and the bytes.
   ops: c created, w written, t truncated (offset: the new size), s flushed, u unlinked. The folder itself is called ".". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 4096
static char *names[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int tape = -1;

static const char *inside(const char *path) {
    const char *folder = getenv("RECORDED_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || !path || strncmp(path, folder, length)) return NULL;
    if (!path[length] || !strcmp(path + length, "/") || !strcmp(path + length, "/.")) return ".";
    return path[length] == '/' ? path + length + 1 : NULL;
}

static void record(char op, const char *name, long long offset, const void *bytes, size_t length) {
    char head[PATH_MAX + 64];
    int size = snprintf(head, sizeof head, "%c %s %lld %zu\n", op, name, offset, length);
    struct iovec parts[2] = {{head, (size_t)size}, {(void *)bytes, length}};
    pthread_mutex_lock(&lock);
    if (tape < 0) tape = (int)syscall(SYS_openat, AT_FDCWD, getenv("RECORDED_TAPE"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (writev(tape, parts, bytes ? 2 : 1) < 0) abort();
    pthread_mutex_unlock(&lock);
}

static int opened(int fd, const char *path, int there) {
    const char *name = inside(path);
    if (fd < 0 || fd >= MOST) return fd;
    free(names[fd]);
    names[fd] = name ? strdup(name) : NULL;
    if (name && !there) record('c', name, 0, NULL, 0);
    return fd;
}

static int is_there(const char *path) { return faccessat(AT_FDCWD, path, F_OK, 0) == 0; }
static const char *name_of(int fd) { return fd >= 0 && fd < MOST ? names[fd] : NULL; }

#define OPEN(symbol)                                                       \
    int symbol(const char *path, int flags, ...) {                         \
        static int (*real)(const char *, int, ...);                        \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #symbol); \
        va_list rest;                                                      \
        va_start(rest, flags);                                             \
        int mode = flags & O_CREAT ? va_arg(rest, int) : 0;                \
        va_end(rest);                                                      \
        int there = is_there(path);                                        \
        return opened(real(path, flags, mode), path, there);               \
    }
OPEN(open)
OPEN(open64)

#define PWRITE(symbol, type)                                               \
    ssize_t symbol(int fd, const void *bytes, size_t length, type offset) { \
        static ssize_t (*real)(int, const void *, size_t, type);           \
        if (!real) real = (ssize_t(*)(int, const void *, size_t, type))dlsym(RTLD_NEXT, #symbol); \
        ssize_t done = real(fd, bytes, length, offset);                    \
        if (done > 0 && name_of(fd)) record('w', name_of(fd), offset, bytes, (size_t)done); \
        return done;                                                       \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *bytes, size_t length) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    ssize_t done = real(fd, bytes, length);
    if (done > 0 && name_of(fd)) record('w', name_of(fd), (long long)lseek(fd, 0, SEEK_CUR) - done, bytes, (size_t)done);
    return done;
}

#define TRUNCATE(symbol, type)                                             \
    int symbol(int fd, type size) {                                        \
        static int (*real)(int, type);                                     \
        if (!real) real = (int (*)(int, type))dlsym(RTLD_NEXT, #symbol);   \
        int failed = real(fd, size);                                       \
        if (!failed && name_of(fd)) record('t', name_of(fd), size, NULL, 0); \
        return failed;                                                     \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(symbol)                                                       \
    int symbol(int fd) {                                                   \
        static int (*real)(int);                                           \
        if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #symbol);         \
        int failed = real(fd);                                             \
        if (!failed && name_of(fd)) record('s', name_of(fd), 0, NULL, 0);  \
        return failed;                                                     \
    }
SYNC(fsync)
SYNC(fdatasync)

int close(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    if (fd >= 0 && fd < MOST) {
        free(names[fd]);
        names[fd] = NULL;
    }
    return real(fd);
}

int unlink(const char *path) {
    static int (*real)(const char *);
    if (!real) real = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    int failed = real(path);
    if (!failed && inside(path)) record('u', inside(path), 0, NULL, 0);
    return failed;
}
