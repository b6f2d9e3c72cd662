/* Answers the CPUID instructions that avx2_only.py has made undefined, without the bits of AVX-512, VNNI and AMX.
 * Any other undefined instruction ends the program, but for a UD2 of its own, which would be taken for a CPUID. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static void answer_cpuid(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], a, b, c, d;
    (void)info;
    if (code[0] != 0x0f || code[1] != 0x0b) { /* not ours */
        signal(signal_number, SIG_DFL);
        return;
    }
    __cpuid_count(leaf, subleaf, a, b, c, d);
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
    sigaction(SIGILL, &action, NULL);
}
