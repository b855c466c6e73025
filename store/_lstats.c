/*
 * The attributes of many files of one folder, as columns of numbers: see `lstats.py`.
 *
 * Of a Python call for each file most of the time goes into objects that hold what is not asked for.
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

/*
 * Write mode, size in bytes and modification time in ns of the `count` files of folder `handle` whose `names` stand one
 * after the other, each ended by a NUL. Links are not followed. Returns 0, or the errno of the first that has none.
 */
int dvfs_lstats(
    int handle, const char *names, size_t count, uint16_t *modes, uint64_t *sizes, int64_t *mtimes)
{
    for (size_t index = 0; index < count; index++) {
        struct stat found;
        if (fstatat(handle, names, &found, AT_SYMLINK_NOFOLLOW) != 0)
            return errno;
        modes[index] = (uint16_t)found.st_mode;
        sizes[index] = (uint64_t)found.st_size;
        mtimes[index] = (int64_t)found.st_mtim.tv_sec * 1000000000 + found.st_mtim.tv_nsec;
        names += strlen(names) + 1;
    }
    return 0;
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_lstats", .m_size = -1};

PyMODINIT_FUNC PyInit__lstats(void)
{
    return PyModule_Create(&module);
}
