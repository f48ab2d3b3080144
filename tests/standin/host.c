/*
 * A preloaded library that lets a process see another host.
 *
 *   STANDIN_SYSNAME, STANDIN_MACHINE, STANDIN_RELEASE
 *                                      what uname() says, each only where it is set
 *   STANDIN_GLIBC                      what confstr(_CS_GNU_LIBC_VERSION) says, such as "glibc 2.17"; "none" makes it
 *                                      fail with EINVAL, as it does where the C library is another one
 *   STANDIN_CLOCK                      by how many seconds the clock is ahead (negative: behind)
 *   STANDIN_ADJTIMEX                   what adjtimex() returns, such as 5: not synchronised
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static void replace(const char *variable, char *field, size_t size)
{
    const char *value = getenv(variable);
    if (value)
        snprintf(field, size, "%s", value);
}

int uname(struct utsname *host)
{
    int (*real)(struct utsname *);
    int result;
    *(void **)&real = dlsym(RTLD_NEXT, "uname");
    result = real(host);
    if (result == 0) {
        replace("STANDIN_SYSNAME", host->sysname, sizeof host->sysname);
        replace("STANDIN_MACHINE", host->machine, sizeof host->machine);
        replace("STANDIN_RELEASE", host->release, sizeof host->release);
    }
    return result;
}

size_t confstr(int name, char *buffer, size_t length)
{
    size_t (*real)(int, char *, size_t);
    const char *glibc = getenv("STANDIN_GLIBC");
    if (name == _CS_GNU_LIBC_VERSION && glibc) {
        if (strcmp(glibc, "none") == 0) {
            errno = EINVAL;
            return 0;
        }
        if (buffer && length)
            snprintf(buffer, length, "%s", glibc);
        return strlen(glibc) + 1;
    }
    *(void **)&real = dlsym(RTLD_NEXT, "confstr");
    return real(name, buffer, length);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    const char *ahead = getenv("STANDIN_CLOCK");
    int result;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && ahead)
        now->tv_sec += atoll(ahead);
    return result;
}

int adjtimex(struct timex *state)
{
    int (*real)(struct timex *);
    const char *said = getenv("STANDIN_ADJTIMEX");
    if (said)
        return atoi(said);
    *(void **)&real = dlsym(RTLD_NEXT, "adjtimex");
    return real(state);
}
