/* SPDX-License-Identifier: Apache-2.0 */
/* C: a layer in flat buffers, as llm.c has them, learns another one under APOLLO through the shim (shim.cpp). */
#include <stdio.h>
#include <stdlib.h>

#include <apollo/bridge/c.h>

enum { inputs = 32, outputs = 48, batch = 64, size = outputs * inputs + outputs };

static float draw(void) { return (float)rand() / (float)RAND_MAX - 0.5f; }

static void layer(const float* p, const float* x, float* y) {
  for (int o = 0; o < outputs; ++o) {
    y[o] = p[outputs * inputs + o];
    for (int i = 0; i < inputs; ++i) y[o] += p[o * inputs + i] * x[i];
  }
}

/* Mean squared distance of the two layers on a batch of new inputs, and its gradient. */
static float loss(const float* target, const float* params, float* grads) {
  float sum = 0, x[inputs], want[outputs], y[outputs];
  for (int k = 0; k < size; ++k) grads[k] = 0;
  for (int b = 0; b < batch; ++b) {
    for (int i = 0; i < inputs; ++i) x[i] = draw();
    layer(target, x, want), layer(params, x, y);
    for (int o = 0; o < outputs; ++o) {
      const float error = (y[o] - want[o]) / (batch * outputs);
      sum += error * (y[o] - want[o]);
      grads[outputs * inputs + o] += 2 * error;
      for (int i = 0; i < inputs; ++i) grads[o * inputs + i] += 2 * error * x[i];
    }
  }
  return sum;
}

int main(void) {
  static float target[size], params[size], grads[size];
  for (int k = 0; k < size; ++k) target[k] = draw();
  const apollo_tensor layout[] = {{"weight", 0, outputs, inputs, 1}, {"bias", outputs * inputs, outputs, 1, 1}};
  apollo_options matrices, others;
  apollo_optimizer* optimizer = NULL;
  apollo_defaults(APOLLO_APOLLO, &matrices), apollo_defaults(APOLLO_ADAMW, &others);
  matrices.rank = 8, matrices.lr = 3e-2, others.lr = 1e-2;
  float first = 0, last = 0;
  if (apollo_create(&matrices, &others, 0, &optimizer) || apollo_add(optimizer, layout, 2, params, grads)) goto failed;
  for (int step = 0; step < 500; ++step) {
    last = loss(target, params, grads);
    if (step == 0) first = last;
    if (apollo_set_lr(optimizer, 3e-2 * (1 - step / 500.0), 1e-2) || apollo_step(optimizer, NULL)) goto failed;
  }
  apollo_destroy(optimizer);
  printf("C: loss %.4f at first, %.6f at last\n", first, last);
  return last < first / 1000 ? 0 : 1;
failed:
  fprintf(stderr, "%s\n", apollo_error());
  return 2;
}
