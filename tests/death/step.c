/* Walks a child through one operation instruction by instruction, and stops it at a chosen one. x86-64 Linux.
 *
 * The child calls step_begin, the operation, step_end; both stop it. Its parent traces it: once to write down its path, which
 * is the program counter at every instruction in the core (step_trace), or only at those that write to the segment
 * (step_stores). Then step_to, for other children, who take the same path: a breakpoint at one instruction, and there they
 * stand when it is about to be executed for the n-th time, to be killed or to be sent on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

struct range { uint64_t start, end; };

#define PAGE 4096UL
#define OUTSIDE_MAX 8

enum { FAILED = -1, REACHED = 0, ENDED = 1 };

void step_begin(void)
{
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
}

void step_end(void) { raise(SIGSTOP); }

/* Let it go on; the signal that stopped it next, or 0 if it has ended. Signals that are not ours are passed on. */
static int resume(int how, pid_t pid)
{
    int status, signal = 0;
    do {
        if (ptrace(how, pid, 0, signal) != 0 || waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
            return 0;
        signal = WSTOPSIG(status);
    } while (signal != SIGTRAP && signal != SIGSTOP && signal != SIGSEGV && signal != SIGBUS && signal != SIGILL);
    return signal;
}

static uint64_t program_counter(pid_t pid)
{
    return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
}

static int in_core(uint64_t pc, const struct range *core, int ranges)
{
    for (int i = 0; i < ranges; i++)
        if (pc >= core[i].start && pc < core[i].end)
            return 1;
    return 0;
}

/* From step_begin to step_end: every instruction in the core, up to max of them; their number, or -1. A repeated instruction
 * counts once, as it does for a breakpoint. */
long step_trace(pid_t pid, const struct range *core, int ranges, uint64_t *path, long max)
{
    long n = 0;
    uint64_t last = 0;
    int signal;

    while ((signal = resume(PTRACE_SINGLESTEP, pid)) == SIGTRAP) {
        uint64_t pc = program_counter(pid);
        if (pc != last && in_core(pc, core, ranges)) {
            if (n == max)
                return -1;
            path[n++] = pc;
        }
        last = pc;
    }
    return signal == SIGSTOP ? n : -1;
}

/* Have a stopped child call mprotect, by way of a syscall instruction at gate. */
static int protect(pid_t pid, uint64_t gate, uint64_t memory, uint64_t size, int how)
{
    struct user_regs_struct saved, call;
    if (ptrace(PTRACE_GETREGS, pid, 0, &saved) != 0)
        return 0;
    call = saved;
    call.rip = gate;
    call.rax = SYS_mprotect;
    call.orig_rax = (uint64_t)-1;
    call.rdi = memory;
    call.rsi = size;
    call.rdx = (uint64_t)how;
    if (ptrace(PTRACE_SETREGS, pid, 0, &call) != 0 || resume(PTRACE_SINGLESTEP, pid) != SIGTRAP)
        return 0;
    return ptrace(PTRACE_SETREGS, pid, 0, &saved) == 0;
}

/* As step_trace, but only the instructions that write to the child's size bytes at memory: it may not write there, and is
 * allowed to whenever it tries, for one instruction. Where others than the core write on and on, which is the content of pages,
 * one page is open to them until the next fault. */
long step_stores(pid_t pid, uint64_t gate, uint64_t memory, uint64_t size, const struct range *core, int ranges, uint64_t *path,
                 long max)
{
    long n = 0;
    int signal, outside = 0;

    if (!protect(pid, gate, memory, size, PROT_READ))
        return -1;
    while ((signal = resume(PTRACE_CONT, pid)) == SIGSEGV) {
        siginfo_t fault;
        uint64_t pc = program_counter(pid);
        if (ptrace(PTRACE_GETSIGINFO, pid, 0, &fault) != 0 || (uint64_t)fault.si_addr - memory >= size)
            return -1;
        if (in_core(pc, core, ranges)) {
            if (n == max)
                return -1;
            path[n++] = pc;
            outside = 0;
        } else
            outside++;
        if (!protect(pid, gate, (uint64_t)fault.si_addr & ~(PAGE - 1), PAGE, PROT_READ | PROT_WRITE) ||
            resume(PTRACE_SINGLESTEP, pid) != SIGTRAP)
            return -1;
        if (outside <= OUTSIDE_MAX && !protect(pid, gate, memory, size, PROT_READ))
            return -1;
    }
    return signal == SIGSTOP ? n : -1;
}

/* Stop it when it is about to execute the instruction at pc for the n-th time: REACHED; or at step_end if that comes first:
 * ENDED. */
int step_to(pid_t pid, uint64_t pc, long n)
{
    ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL);
    errno = 0;
    long original = pc ? ptrace(PTRACE_PEEKTEXT, pid, pc, 0) : 0;
    if (errno)
        return FAILED;
    for (;;) {
        if (pc && ptrace(PTRACE_POKETEXT, pid, pc, (original & ~0xFFL) | 0xCC) != 0)
            return FAILED;
        int signal = resume(PTRACE_CONT, pid);
        if (signal == SIGSTOP)
            return ENDED;
        if (signal != SIGTRAP || program_counter(pid) != pc + 1)
            return FAILED;
        ptrace(PTRACE_POKETEXT, pid, pc, original);
        ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rip), pc);
        if (--n == 0)
            return REACHED;
        if (resume(PTRACE_SINGLESTEP, pid) != SIGTRAP)
            return FAILED;
    }
}

/* Lets a stopped child go on to step_end. Returns 1 if it got there. */
int step_on(pid_t pid) { return resume(PTRACE_CONT, pid) == SIGSTOP; }
