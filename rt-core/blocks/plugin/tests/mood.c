/* A plug-in for tests: a kind that works, and kinds that fail in every way there is. */
#include "kairo_block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What input 0 makes the block do. */
enum mood { WORK, REPORT, NOT_A_NUMBER, SEGFAULT, DIVIDE, ABORT, LOOP, OVERFLOW, OVERRUN, RECURSE, CALL };

typedef struct state {
    double gain;
    double sum;
    uint64_t steps;
} state;

static int32_t create(void *memory, const double *parameters, double period_s)
{
    state *self = memory;
    if (period_s <= 0.0 || self->sum != 0.0)
        return 2;
    self->gain = parameters[0];
    return self->gain == 13.0 ? 3 : 0;
}

static volatile int zero = 0;
static volatile int *volatile nowhere = 0;

static int recurse(volatile int *depth)
{
    volatile int room[1024];
    memset((void *)room, *depth & 1, sizeof room);
    *depth += 1;
    return recurse(depth) + room[*depth & 1023];
}

static int32_t step(void *memory, const double *inputs, double *outputs)
{
    state *self = memory;
    volatile int depth = 0;
    self->steps += 1;
    self->sum += inputs[1];
    outputs[0] = self->gain * inputs[1];
    outputs[1] = self->sum;
    switch ((int)inputs[0]) {
    case WORK: return 0;
    case REPORT: return 42;
    case NOT_A_NUMBER: outputs[1] = NAN; return 0;
    case SEGFAULT: *nowhere = 1; return 0;
    case DIVIDE: return 1000 / zero;
    case ABORT: abort();
    case LOOP: for (;;) zero = 0;
    case OVERFLOW: memset((char *)memory + sizeof(state), 1, 1); return 0;
    case OVERRUN: memset(memory, 1, 1 << 20); return 0;
    case RECURSE: return recurse(&depth);
    case CALL: return write(-1, "", 1) == -1 ? 0 : 4;
    }
    return 1;
}

static void reset(void *memory)
{
    ((state *)memory)->sum = 0.0;
}

static const kairo_port inputs[] = {{"mood", "1"}, {"in", "rad"}};
static const kairo_port outputs[] = {{"out", "rad"}, {"sum", "rad"}};
static const kairo_parameter parameters[] = {{"gain", "1", -100.0, 100.0, NAN}};
static const kairo_block_kind kinds[] = {
    {
        .abi_version = KAIRO_BLOCK_ABI + WRONG_VERSION,
        .struct_size = sizeof(kairo_block_kind),
        .name = "moody",
        .inputs = inputs,
        .outputs = outputs,
        .parameters = parameters,
        .input_count = 2,
        .output_count = 2,
        .parameter_count = 1,
        .state_align = _Alignof(state),
        .state_size = sizeof(state),
        .create = create,
        .step = step,
        .reset = reset,
    },
};

const kairo_block_kind *kairo_block_kind_at(uint32_t index)
{
    return index < sizeof kinds / sizeof kinds[0] ? &kinds[index] : 0;
}
