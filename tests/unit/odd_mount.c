/* Makes calls fail below a folder, as they do on some mounts: with LD_PRELOAD, ODD_FOLDER=/path ODD_CALLS="flock=37 chmod=1".
   The calls are chmod, flock, fsync (of files) and fsyncdir (of folders); each has the number of its error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int refused(const char *call) {
    const char *found = getenv("ODD_CALLS");
    size_t length = strlen(call);
    for (; found && (found = strstr(found, call)); found += length)
        if (found[length] == '=') return atoi(found + length + 1);
    return 0;
}

static int below(const char *path) {
    const char *folder = getenv("ODD_FOLDER");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int open_below(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return below(path);
}

#define FAIL(call, there) do { int number = refused(call); if (number && (there)) { errno = number; return -1; } } while (0)
#define REAL(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

int chmod(const char *path, mode_t mode) {
    FAIL("chmod", below(path));
    return REAL("chmod", const char *, mode_t)(path, mode);
}

int fchmod(int file, mode_t mode) {
    FAIL("chmod", open_below(file));
    return REAL("fchmod", int, mode_t)(file, mode);
}

int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    FAIL("chmod", below(path));
    return REAL("fchmodat", int, const char *, mode_t, int)(folder, path, mode, flags);
}

int flock(int file, int operation) {
    FAIL("flock", open_below(file));
    return REAL("flock", int, int)(file, operation);
}

int fsync(int file) {
    struct stat status;
    if (fstat(file, &status) == 0) FAIL(S_ISDIR(status.st_mode) ? "fsyncdir" : "fsync", open_below(file));
    return REAL("fsync", int)(file);
}
