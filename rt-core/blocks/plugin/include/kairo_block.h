/* kairo_block.h: control blocks of KairoOS in C, or in anything that speaks the C ABI.
 *
 * A shared object exports kairo_block_kind_at(), which describes its kinds of block. kairo-rt loads
 * it before it arms, checks what it says, and calls step() in every period of a loop.
 *
 * step() and reset() run on a real-time thread: no malloc, no lock, no system call, no unbounded
 * loop, no exit(). All memory of a block is the state that kairo-rt gives it, and nothing in that
 * state may be an address: the flight recorder saves the state byte for byte, and a replay puts it
 * back in another process.
 *
 * What goes wrong in step() or reset() stops the loop's devices and not the daemon: a result that is
 * not 0, an output that is NaN or infinite, SIGSEGV, SIGBUS, SIGFPE, SIGILL, abort(), and more
 * processor time than the plug-in's budget_us. What cannot be contained: memory that is overwritten
 * outside the state, a lock that is held when a fault occurs, exit().
 */
#ifndef KAIRO_BLOCK_H
#define KAIRO_BLOCK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KAIRO_BLOCK_ABI 1u

/* An input or output. unit is spelled as in robot.toml: "1", "flag", "rad", "rad/s", "m/s2", "Nm". */
typedef struct kairo_port {
    const char *name;
    const char *unit;
} kairo_port;

/* A key of the block's table in robot.toml: name and the ending of its unit, as in gain or
 * width_rad. A default_value of NAN makes the key required. */
typedef struct kairo_parameter {
    const char *name;
    const char *unit;
    double minimum;
    double maximum;
    double default_value;
} kairo_parameter;

typedef struct kairo_block_kind {
    uint32_t abi_version; /* KAIRO_BLOCK_ABI */
    uint32_t struct_size; /* sizeof(kairo_block_kind) */
    const char *name;     /* robot.toml: kind = "PLUGIN.name" */
    const kairo_port *inputs;
    const kairo_port *outputs;
    const kairo_parameter *parameters;
    uint32_t input_count;
    uint32_t output_count;
    uint32_t parameter_count;
    uint32_t state_align; /* a power of two, at most 4096 */
    uint64_t state_size;  /* bytes, at most 1 MiB; zeroed before create() */
    /* Makes a block in state. Before arming; a result that is not 0 refuses the settings. */
    int32_t (*create)(void *state, const double *parameters, double period_s);
    /* One period: writes all outputs. A result that is not 0 is a fault. */
    int32_t (*step)(void *state, const double *inputs, double *outputs);
    /* A device begins to follow commands: forget what was gathered meanwhile. May be NULL. */
    void (*reset)(void *state);
} kairo_block_kind;

/* The kind at index, NULL after the last. What it points to lives as long as the process. */
const kairo_block_kind *kairo_block_kind_at(uint32_t index);

#ifdef __cplusplus
}
#endif

#endif
