/* stat without the C library's functions of that name. glibc 2.33 gave those new versions, so a module that calls them and was built
 * there does not load with an older one (manylinux_2_28). On 64-bit machines the C libraries' struct stat is the kernel's. */
#ifndef FC_STAT_H
#define FC_STAT_H

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* fstatat(2). Returns 0, or -1 with errno. */
static inline int fc_stat(int directory, const char *path, int flags, struct stat *found)
{
    return (int)syscall(SYS_newfstatat, directory, path, found, flags);
}

#endif
