/* A block for kairo-rt in C: takes up the backlash of a gear.
 *
 * docs/do/add-a-block-in-c.md walks through this file.
 */
#include "kairo_block.h"

#include <math.h>

/* All memory of a block; kairo-rt gives it, zeroed. */
typedef struct backlash {
    double half_width_rad;
    double before_rad;
    double side;
    int begun;
} backlash;

static int32_t create(void *state, const double *parameters, double period_s)
{
    backlash *self = state;
    (void)period_s;
    self->half_width_rad = parameters[0] / 2.0;
    return 0;
}

static int32_t step(void *state, const double *inputs, double *outputs)
{
    backlash *self = state;
    double change = self->begun ? inputs[0] - self->before_rad : 0.0;
    if (change != 0.0)
        self->side = change > 0.0 ? 1.0 : -1.0;
    self->before_rad = inputs[0];
    self->begun = 1;
    outputs[0] = inputs[0] + self->side * self->half_width_rad;
    return 0;
}

static void reset(void *state)
{
    backlash *self = state;
    self->side = 0.0;
    self->begun = 0;
}

static const kairo_port inputs[] = {{"in", "rad"}};
static const kairo_port outputs[] = {{"out", "rad"}};
/* NAN: the key width_rad must be given. */
static const kairo_parameter parameters[] = {{"width", "rad", 0.0, 0.2, NAN}};
static const kairo_block_kind kind = {
    .abi_version = KAIRO_BLOCK_ABI,
    .struct_size = sizeof(kairo_block_kind),
    .name = "backlash",
    .inputs = inputs,
    .outputs = outputs,
    .parameters = parameters,
    .input_count = 1,
    .output_count = 1,
    .parameter_count = 1,
    .state_align = _Alignof(backlash),
    .state_size = sizeof(backlash),
    .create = create,
    .step = step,
    .reset = reset,
};

const kairo_block_kind *kairo_block_kind_at(uint32_t index)
{
    return index == 0 ? &kind : 0;
}
