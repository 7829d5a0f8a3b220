/* SPDX-License-Identifier: Apache-2.0 */
/* llm.c's own GPT-2 (its train_gpt2.c, from LLMC_ROOT) learns a short sequence by heart under APOLLO, through the shim. */
#define TESTING
#include "train_gpt2.c"

#include <apollo/bridge/c.h>

enum { V = 64, T = 16, L = 2, C = 32, B = 4, tensors = 16 };

static const apollo_tensor shapes[tensors] = {
    {"wte", 0, V, C, 1},         {"wpe", 0, T, C, 1},      {"ln1w", 0, C, 1, L},     {"ln1b", 0, C, 1, L},
    {"qkvw", 0, 3 * C, C, L},    {"qkvb", 0, 3 * C, 1, L}, {"attprojw", 0, C, C, L}, {"attprojb", 0, C, 1, L},
    {"ln2w", 0, C, 1, L},        {"ln2b", 0, C, 1, L},     {"fcw", 0, 4 * C, C, L},  {"fcb", 0, 4 * C, 1, L},
    {"fcprojw", 0, C, 4 * C, L}, {"fcprojb", 0, C, 1, L},  {"lnfw", 0, C, 1, 1},     {"lnfb", 0, C, 1, 1}};

int main(void) {
  GPT2 model;
  memset(&model, 0, sizeof model);
  model.config.max_seq_len = T, model.config.vocab_size = model.config.padded_vocab_size = V;
  model.config.num_layers = L, model.config.num_heads = 4, model.config.channels = C;
  fill_in_parameter_sizes(model.param_sizes, model.config);
  apollo_tensor layout[tensors];
  int64_t size = 0;
  for (int i = 0; i < tensors; ++i) {
    layout[i] = shapes[i], layout[i].offset = size;
    const int64_t expected = shapes[i].rows * shapes[i].cols * shapes[i].count;
    if (expected != (int64_t)model.param_sizes[i]) return fprintf(stderr, "%s has another size\n", shapes[i].name), 2;
    size += expected;
  }
  model.num_parameters = (size_t)size, model.mean_loss = -1;
  model.params_memory = malloc_and_point_parameters(&model.params, model.param_sizes);
  for (int64_t i = 0; i < size; ++i) model.params_memory[i] = 0.04f * ((float)rand() / (float)RAND_MAX - 0.5f);
  for (int i = 0; i < L * C; ++i) model.params.ln1w[i] = model.params.ln2w[i] = 1;
  for (int i = 0; i < C; ++i) model.params.lnfw[i] = 1;
  int inputs[B * T], targets[B * T];
  for (int i = 0; i < B * T; ++i) inputs[i] = 7 * i % V, targets[i] = 7 * (i + 1) % V;

  apollo_options matrices, others;
  apollo_optimizer* optimizer = NULL;
  apollo_defaults(APOLLO_APOLLO, &matrices), apollo_defaults(APOLLO_ADAMW, &others);
  matrices.rank = 8, matrices.lr = 1e-2;
  int failed = apollo_create(&matrices, &others, 1, &optimizer) != APOLLO_OK;
  float first = 0;
  for (int step = 0; step < 100 && !failed; ++step) {
    gpt2_forward(&model, inputs, targets, B, T);
    gpt2_zero_grad(&model);
    gpt2_backward(&model);
    if (step == 0) { /* llm.c allocates gradients in the first backward pass */
      first = model.mean_loss;
      failed = apollo_add(optimizer, layout, tensors, model.params_memory, model.grads_memory) != APOLLO_OK;
    }
    failed = failed || apollo_step(optimizer, NULL) != APOLLO_OK;
  }
  if (failed) fprintf(stderr, "%s\n", apollo_error());
  int64_t bytes = 0;
  if (!failed) apollo_state_bytes(optimizer, &bytes);
  printf("llm.c: loss %.3f at first, %.3f at last; state %ld bytes of AdamW's %ld\n", first, model.mean_loss,
         (long)bytes, (long)(8 * size));
  apollo_destroy(optimizer);
  return failed || !(model.mean_loss < first / 10);
}
