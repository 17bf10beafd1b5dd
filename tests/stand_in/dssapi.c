/*
 * A stand-in for libdssapi.so: the functions that the program calls, on a directory of ordinary
 * files instead of a server and its volumes. Written from what the interface is and does, for tests.
 *
 * The server's address, UDS:<home>/.dss_unix_d_socket, says where: group `data` is the directory
 * <home>/volumes/data. In <home> there may also be
 *
 *   calls   a line for each call, appended if the file is there
 *   fail    a line `<function> <n> <code> <text>`: the n-th call of the function fails so
 *   mode    words: `round` (lengths are kept in whole sectors, as a library would that cannot write
 *           less), `count` (reads say that they brought more than was asked), `kind` (kinds that do
 *           not exist), `name` (names without an end), `path` (names that lead elsewhere),
 *           `silent` (failures without a reason), `handle` (handles that are none)
 *
 * As the real one, it
 *   - has an error a thread, which the next call resets;
 *   - reads in whole sectors only, and counts bytes behind the end of the file;
 *   - leaves arbitrary bytes where a file grows without being written (0xdd here);
 *   - follows links in all places but the last of lstat, unlink, readlink;
 *   - takes only letters, digits, `_`, `.` and `-` in names, of at most 63 bytes;
 *   - refuses to rename into another directory, and replaces a file of the new name.
 * Unlike the real one, it refuses to write at addresses and offsets within a sector.
 *
 * VERSION and WITHOUT_FRENAME make a library of another version, or with a function less.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION 5
#endif
#define HANDLE_BASE 0x20000000
#define FILES_MAX 4096
#define SECTOR 512
#define UNIT (2 * 1024 * 1024)

struct item { int type; char name[64]; };
struct stat_item {
    unsigned long long size, written_size;
    time_t created, updated;
    char name[64];
    int type;
};

static char home[PATH_MAX];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { int fd; int writable; char path[PATH_MAX]; } files[FILES_MAX];
static __thread int code;
static __thread char text[1024];

static int fail(int number, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    code = number;
    return -1;
}

static int has_mode(const char *word)
{
    char path[PATH_MAX + 8], words[256] = "";
    snprintf(path, sizeof path, "%s/mode", home);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    size_t length = fread(words, 1, sizeof words - 1, file);
    words[length] = 0;
    fclose(file);
    return strstr(words, word) != NULL;
}

/* Begins a call: resets the error, notes the call, and fails it if it is to fail. */
static int enter(const char *function, const char *format, ...)
{
    static struct { char name[32]; int calls; } counts[32];
    char path[PATH_MAX + 8], line[1280], what[1100], name[64], message[1024];
    va_list arguments;
    code = 0;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&lock);
    int calls = 0;
    for (int i = 0; i < 32; i++) {
        if (counts[i].name[0] == 0)
            snprintf(counts[i].name, sizeof counts[i].name, "%s", function);
        if (strcmp(counts[i].name, function) == 0) {
            calls = ++counts[i].calls;
            break;
        }
    }
    snprintf(path, sizeof path, "%s/calls", home);
    int fd = open(path, O_WRONLY | O_APPEND);
    if (fd >= 0) {
        int length = snprintf(line, sizeof line, "%s %s\n", function, what);
        if (write(fd, line, length) != length)
            abort();
        close(fd);
    }
    int status = 0;
    snprintf(path, sizeof path, "%s/fail", home);
    FILE *file = fopen(path, "r");
    if (file != NULL) {
        int number, error;
        while (fscanf(file, "%63s %d %d %1023[^\n]", name, &number, &error, message) == 4)
            if (strcmp(name, function) == 0 && number == calls)
                status = fail(error, "%s", message);
        fclose(file);
    }
    pthread_mutex_unlock(&lock);
    if (status != 0 && has_mode("silent"))
        code = 0;
    return status;
}

static int check_path(const char *path)
{
    if (path[0] != '+')
        return fail(2193, "Path %s decode error , path should start with +", path);
    size_t name = 0;
    for (const char *at = path + 1; *at != 0; at++) {
        name = *at == '/' ? 0 : name + 1;
        if (!isalnum((unsigned char)*at) && strchr("_.-/", *at) == NULL)
            return fail(2193, "Path %s decode error , path should be [0~9,a~z,A~Z,-,_,/,.]", path);
        if (name >= 64)
            return fail(2193, "Path %s decode error , name is too long", path);
    }
    return strlen(path) < 1024 ? 0 : fail(2193, "Path %s decode error , path is too long", path);
}

/* The real path of a path; links are followed, in the last place if that is wanted. */
static int find(const char *path, int follow_last, char *real)
{
    char whole[2048], next[2048];
    snprintf(whole, sizeof whole, "%s", path);
    for (int links = 0; links < 16; links++) {
        if (check_path(whole) != 0)
            return -1;
        char *at = whole + 1, *slash;
        int length = snprintf(real, PATH_MAX, "%s/volumes", home), linked = 0;
        do {
            slash = strchr(at, '/');
            int bytes = slash == NULL ? (int)strlen(at) : (int)(slash - at);
            length += snprintf(real + length, PATH_MAX - length, "/%.*s", bytes, at);
            struct stat stat;
            if (lstat(real, &stat) == 0 && S_ISLNK(stat.st_mode) && (slash != NULL || follow_last)) {
                char target[1024];
                ssize_t got = readlink(real, target, sizeof target - 1);
                target[got < 0 ? 0 : got] = 0;
                snprintf(next, sizeof next, "%s%s", target, slash == NULL ? "" : slash);
                snprintf(whole, sizeof whole, "%s", next);
                linked = 1;
                break;
            }
            at = slash == NULL ? at : slash + 1;
        } while (slash != NULL);
        if (!linked)
            return 0;
    }
    return fail(2190, "The file %s of dss does not exist", path);
}

static int refuse(int error, const char *path)
{
    switch (error) {
    case ENOENT:
        return fail(2190, "The file %s of dss does not exist", path);
    case EEXIST:
        return fail(2241, "Make dir or Create file failed, %s has already existed.", path);
    case ENOTEMPTY:
        return fail(2231, "The dir is not empty, can not remove.");
    case ENOSPC:
        return fail(2401, "DSS no space in the vg");
    default:
        return fail(2192, "The type of directory link or file %s is not matched.", path);
    }
}

static int describe(const struct stat *from, const char *path, struct stat_item *item)
{
    const char *name = strrchr(path, '/');
    memset(item, 0, sizeof *item);
    item->written_size = S_ISREG(from->st_mode) ? from->st_size : 0;
    item->size = (item->written_size + UNIT - 1) / UNIT * UNIT;
    item->created = item->updated = from->st_mtime;
    snprintf(item->name, sizeof item->name, "%.63s", name == NULL ? path : name + 1);
    item->type = S_ISDIR(from->st_mode) ? 0 : S_ISREG(from->st_mode) ? 1 : 2;
    if (has_mode("kind"))
        item->type = 77;
    return 0;
}

static int stat_path(const char *path, int follow, struct stat_item *item)
{
    char real[PATH_MAX];
    struct stat stat;
    if (find(path, follow, real) != 0)
        return -1;
    return lstat(real, &stat) == 0 ? describe(&stat, path, item) : refuse(errno, path);
}

int dss_get_lib_version(void) { return VERSION; }

void dss_get_error(int *number, const char **message)
{
    *number = code == 0 || (code >= 2000 && code <= 2500) ? code : -1;
    *message = text;
}

int dss_set_svr_path(const char *path)
{
    const char *end = strrchr(path, '/');
    if (strncmp(path, "UDS:/", 5) != 0)
        return fail(2411, "Invalid unix domain socket url:%s", path);
    snprintf(home, sizeof home, "%.*s", (int)(end - path - 4), path + 4);
    return 0;
}

int dss_stat(const char *path, struct stat_item *item)
{
    return enter("dss_stat", "%s", path) ? -1 : stat_path(path, 1, item);
}

int dss_lstat(const char *path, struct stat_item *item)
{
    return enter("dss_lstat", "%s", path) ? -1 : stat_path(path, 0, item);
}

/* The place of a handle, or -1. */
static int place(int handle)
{
    int index = handle - HANDLE_BASE;
    if (index < 0 || index >= FILES_MAX || files[index].fd == 0)
        return fail(2400, "Invalid DSS parameter: value of handle %d", handle);
    return index;
}

int dss_fstat(int handle, struct stat_item *item)
{
    struct stat stat;
    int index;
    if (enter("dss_fstat", "%d", handle) || (index = place(handle)) < 0)
        return -1;
    fstat(files[index].fd, &stat);
    return describe(&stat, files[index].path, item);
}

int dss_dmake(const char *path)
{
    char real[PATH_MAX];
    if (enter("dss_dmake", "%s", path) || find(path, 0, real) != 0)
        return -1;
    return mkdir(real, 0700) == 0 ? 0 : refuse(errno, path);
}

int dss_dremove(const char *path)
{
    char real[PATH_MAX];
    if (enter("dss_dremove", "%s", path) || find(path, 0, real) != 0)
        return -1;
    return rmdir(real) == 0 ? 0 : refuse(errno, path);
}

void *dss_dopen(const char *path)
{
    char real[PATH_MAX];
    if (enter("dss_dopen", "%s", path) || find(path, 1, real) != 0)
        return NULL;
    DIR *directory = opendir(real);
    if (directory == NULL)
        refuse(errno, path);
    return directory;
}

int dss_dread(void *directory, struct item *item, struct item **result)
{
    struct dirent *entry;
    *result = NULL;
    /* As the real one: a failure ends the directory, and only the error tells. */
    if (enter("dss_dread", "-"))
        return 0;
    do
        entry = readdir(directory);
    while (entry != NULL && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    if (entry == NULL)
        return 0;
    item->type = entry->d_type == DT_DIR ? 0 : entry->d_type == DT_REG ? 1 : 2;
    snprintf(item->name, sizeof item->name, "%.63s", entry->d_name);
    if (has_mode("name"))
        memset(item->name, 'x', sizeof item->name);
    if (has_mode("path"))
        strcpy(item->name, "../../other");
    *result = item;
    return 0;
}

int dss_dclose(void *directory)
{
    int status = enter("dss_dclose", "-");
    closedir(directory);
    return status;
}

int dss_fcreate(const char *path, int flag)
{
    char real[PATH_MAX];
    (void)flag;
    if (enter("dss_fcreate", "%s", path) || find(path, 0, real) != 0)
        return -1;
    int fd = open(real, O_CREAT | O_EXCL | O_WRONLY, 0600);
    return fd < 0 ? refuse(errno, path) : close(fd);
}

static int remove_kind(const char *path, int link)
{
    char real[PATH_MAX];
    struct stat stat;
    if (find(path, 0, real) != 0)
        return -1;
    if (lstat(real, &stat) != 0)
        return refuse(errno, path);
    if (S_ISDIR(stat.st_mode) || S_ISLNK(stat.st_mode) != link)
        return refuse(EINVAL, path);
    return unlink(real) == 0 ? 0 : refuse(errno, path);
}

int dss_fremove(const char *path)
{
    return enter("dss_fremove", "%s", path) ? -1 : remove_kind(path, 0);
}

int dss_unlink(const char *path)
{
    return enter("dss_unlink", "%s", path) ? -1 : remove_kind(path, 1);
}

#ifndef WITHOUT_FRENAME
int dss_frename(const char *from, const char *to)
{
    char real_from[PATH_MAX], real_to[PATH_MAX];
    const char *one = strrchr(from, '/'), *other = strrchr(to, '/');
    struct stat stat;
    if (enter("dss_frename", "%s %s", from, to))
        return -1;
    if (one - from != other - to || strncmp(from, to, one - from) != 0)
        return fail(2150, "Rename failed, reason can not change path.");
    if (find(from, 0, real_from) != 0 || find(to, 0, real_to) != 0)
        return -1;
    if (lstat(real_from, &stat) != 0)
        return refuse(errno, from);
    if (!S_ISREG(stat.st_mode))
        return refuse(EINVAL, from);
    return rename(real_from, real_to) == 0 ? 0 : refuse(errno, to);
}
#endif

int dss_fopen(const char *path, int flag, int *handle)
{
    char real[PATH_MAX];
    struct stat stat;
    *handle = -1;
    if (enter("dss_fopen", "%s %d", path, flag) || find(path, 1, real) != 0)
        return -1;
    if (lstat(real, &stat) != 0)
        return refuse(errno, path);
    if (!S_ISREG(stat.st_mode))
        return refuse(EINVAL, path);
    int fd = open(real, O_RDWR);
    if (fd < 0)
        return refuse(errno, path);
    pthread_mutex_lock(&lock);
    int index = 0;
    while (index < FILES_MAX && files[index].fd != 0)
        index++;
    if (index < FILES_MAX) {
        files[index].fd = fd;
        files[index].writable = (flag & 3) != 0;
        snprintf(files[index].path, PATH_MAX, "%s", path);
    }
    pthread_mutex_unlock(&lock);
    if (index == FILES_MAX)
        return fail(2400, "Invalid DSS parameter: too many open files");
    *handle = has_mode("handle") ? 3 : index + HANDLE_BASE;
    return 0;
}

int dss_fclose(int handle)
{
    int index;
    if (enter("dss_fclose", "%d", handle) || (index = place(handle)) < 0)
        return -1;
    pthread_mutex_lock(&lock);
    close(files[index].fd);
    files[index].fd = 0;
    pthread_mutex_unlock(&lock);
    return 0;
}

/* Old bytes of the volume from the end of a file up to `to`. */
static int grow(int fd, long long to)
{
    char old[4096];
    struct stat stat;
    fstat(fd, &stat);
    memset(old, 0xdd, sizeof old);
    for (long long at = stat.st_size; at < to; at += sizeof old) {
        size_t part = to - at < (long long)sizeof old ? (size_t)(to - at) : sizeof old;
        if (pwrite(fd, old, part, at) != (ssize_t)part)
            return refuse(errno, "-");
    }
    return 0;
}

int dss_ftruncate(int handle, long long length)
{
    int index;
    if (enter("dss_ftruncate", "%d %lld", handle, length) || (index = place(handle)) < 0)
        return -1;
    if (grow(files[index].fd, length) != 0)
        return -1;
    return ftruncate(files[index].fd, length) == 0 ? 0 : refuse(errno, files[index].path);
}

int dss_pread(int handle, void *memory, int size, long long offset, int *read_size)
{
    int index;
    *read_size = 0;
    if (enter("dss_pread", "%d %d %lld", handle, size, offset) || (index = place(handle)) < 0)
        return -1;
    if (size < 0 || size % SECTOR != 0 || offset % SECTOR != 0 || (uintptr_t)memory % SECTOR != 0)
        return fail(2070, "Read volume 'stand-in' failed, volume id 0, reason 22");
    ssize_t got = pread(files[index].fd, memory, size, offset);
    if (got < 0)
        return refuse(errno, files[index].path);
    int whole = (int)((got + SECTOR - 1) / SECTOR * SECTOR);
    memset((char *)memory + got, 0xdd, whole - got);
    *read_size = has_mode("count") ? size + SECTOR : whole;
    return 0;
}

int dss_pwrite(int handle, const void *memory, int size, long long offset)
{
    int index;
    if (enter("dss_pwrite", "%d %d %lld", handle, size, offset) || (index = place(handle)) < 0)
        return -1;
    if (!files[index].writable)
        return fail(2181, "Insufficient permission to pwrite file, while the permission is 1.");
    if (size < 0 || offset % SECTOR != 0 || (uintptr_t)memory % SECTOR != 0)
        return fail(2080, "Write volume 'stand-in' failed, volume id 0, reason 22");
    int fd = files[index].fd;
    if (grow(fd, offset) != 0)
        return -1;
    if (pwrite(fd, memory, size, offset) != size)
        return refuse(errno, files[index].path);
    if (has_mode("round") && size % SECTOR != 0) {
        struct stat stat;
        fstat(fd, &stat);
        return grow(fd, (stat.st_size + SECTOR - 1) / SECTOR * SECTOR);
    }
    return 0;
}

int dss_symlink(const char *target, const char *path)
{
    char real[PATH_MAX];
    if (enter("dss_symlink", "%s %s", target, path) || check_path(target) != 0)
        return -1;
    if (find(path, 0, real) != 0)
        return -1;
    return symlink(target, real) == 0 ? 0 : refuse(errno, path);
}

int dss_readlink(const char *path, char *buffer, int room)
{
    char real[PATH_MAX];
    if (enter("dss_readlink", "%s", path) || find(path, 0, real) != 0)
        return -1;
    ssize_t got = readlink(real, buffer, room - 1);
    if (got < 0)
        return errno == EINVAL ? fail(2281, "The path %s is not a soft link.", path) : refuse(errno, path);
    buffer[got] = 0;
    return (int)got;
}
