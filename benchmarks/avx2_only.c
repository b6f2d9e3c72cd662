/* Runs a program as on a processor with AVX2 but without AVX-512, VNNI and AMX, to see what an older server would do:
 * its speed-up, and its silent saturation of 8-bit weights (u8 x s8 pairs are added in int16 there).
 *
 *   cc -O2 -shared -fPIC benchmarks/avx2_only.c -o /tmp/avx2_only.so
 *   LD_PRELOAD=/tmp/avx2_only.so python -m benchmarks.integer_vs_float --name integer_vs_float_avx2
 *
 * Linux on x86-64 whose /proc/cpuinfo lists `cpuid_fault`: the CPUID instruction is made to fault, and the handler
 * answers it without the bits of the newer instructions. Libraries that choose their kernels by CPUID (ONNX Runtime,
 * oneDNN, PyTorch) then choose those for AVX2. Clock and caches stay those of the real processor.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static long allow_cpuid(long on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, on); }

static void answer_cpuid(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* a real fault */
        signal(signal_number, SIG_DFL);
        return;
    }
    allow_cpuid(1);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    allow_cpuid(0);
    if (leaf == 7 && subleaf == 0) {
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 F..VL */
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                 /* VBMI, VBMI2, VNNI, BITALG, VPOPCNT */
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));         /* 4VNNIW.., FP16, AMX */
    }
    if (leaf == 7 && subleaf == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        d &= ~(BIT(4) | BIT(5) | BIT(8) | BIT(10));  /* AVX-VNNI-INT8, NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16 */
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer_cpuid;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    if (allow_cpuid(0) != 0) {
        fputs("avx2_only: this kernel or processor cannot make CPUID fault\n", stderr);
        exit(2);
    }
}
