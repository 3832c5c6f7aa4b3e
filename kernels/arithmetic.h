/* arithmetic.h: the float32 arithmetic of inference, written so that every path gives the same
 * bits.
 *
 * Scalar C here is the reference. The vector paths (mlp_vector.inc) and later CUDA repeat exactly
 * these operations in exactly this order. Allowed are fused multiply-add, add, subtract, multiply
 * and division, each rounded once to nearest even, and comparisons; everything else (exp, tanh,
 * sigmoid, softmax, dot products) is made of these. The compiler must not fuse or reorder:
 * -ffp-contract=off, never -ffast-math. Denormals are kept: the calling thread must not have set
 * flush-to-zero or denormals-are-zero, nor another rounding mode.
 *
 * fmaf() is correctly rounded by every libm, with and without hardware support.
 *
 * NaN has one rule, so that its sign and payload, which differ between CPUs, never travel: a NaN
 * that comes out of the normalisation or of a dot product is read as 0. Together with finite
 * weights this makes every score a finite number in 0..1.
 *
 * All functions are pure and may be called by any thread. */
#ifndef SIGNALBUS_KERNELS_ARITHMETIC_H
#define SIGNALBUS_KERNELS_ARITHMETIC_H

#include "shm/base.h"

#include <float.h>
#include <math.h>

/* CUDA compiles the same functions with other qualifiers. */
#ifndef BUS_ARITHMETIC_FUNCTION
#define BUS_ARITHMETIC_FUNCTION static BUS_ALWAYS_INLINE
#endif

/* A normalised input beyond this many scales from its mean carries no more information, and would
 * let one bad tick saturate the whole network. */
#define BUS_ARITHMETIC_INPUT_LIMIT 8.0f

/* exp() works on -87..87: the result and its reciprocal are normal numbers, ln(FLT_MIN) = -87.34.
 */
#define BUS_ARITHMETIC_EXP_LIMIT 87.0f

/* tanh(x) rounds to 1 from 9.02 on. */
#define BUS_ARITHMETIC_TANH_LIMIT 10.0f

/* exp(y) = 2^n * exp(r), n = round(y / ln 2), r = y - n * ln 2, |r| <= 0.3466.
 * ln 2 is split: the high part 355/512 has 9 bits, so n * high is exact; low = ln 2 - high. */
#define BUS_ARITHMETIC_LOG2_E   0x1.715476p+0f
#define BUS_ARITHMETIC_LN2_HIGH 0x1.63p-1f
#define BUS_ARITHMETIC_LN2_LOW  (-0x1.bd0106p-13f)

/* 1.5 * 2^23: adding it to a number below 2^22 in magnitude leaves the number, rounded to an
 * integer, in the low bits of the sum. */
#define BUS_ARITHMETIC_ROUND_MAGIC 12582912.0f

/* Taylor coefficients of exp(r): (exp(r) - 1 - r) / r^2 = 1/2! + r/3! + .. + r^5/7!.
 * The first term left out is below 5.2e-9 for |r| <= 0.3466: a twentieth of an ulp. */
#define BUS_ARITHMETIC_EXP_C2 0.5f
#define BUS_ARITHMETIC_EXP_C3 0x1.555556p-3f
#define BUS_ARITHMETIC_EXP_C4 0x1.555556p-5f
#define BUS_ARITHMETIC_EXP_C5 0x1.111112p-7f
#define BUS_ARITHMETIC_EXP_C6 0x1.6c16c2p-10f
#define BUS_ARITHMETIC_EXP_C7 0x1.a01a02p-13f

union bus_arithmetic_bits {
  float number;
  uint32_t bits;
};

/* The smaller of the two; `b` if they are equal or either is NaN: what x86 MINPS does. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_min(float a, float b)
{
  return a < b ? a : b;
}

/* The larger of the two; `b` if they are equal or either is NaN: what x86 MAXPS does. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_max(float a, float b)
{
  return a > b ? a : b;
}

/* `x`, or +0 when x is NaN. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_number(float x)
{
  return x == x ? x : 0.0f;
}

/* Splits exp(y), |y| <= 87, into *power = 2^n and the return value exp(r) - 1, so that
 * exp(y) = power * (1 + value). n is -126..126. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_exp_parts(float y, float *power)
{
  union bus_arithmetic_bits rounded, scale;
  rounded.number = fmaf(y, BUS_ARITHMETIC_LOG2_E, BUS_ARITHMETIC_ROUND_MAGIC);
  scale.bits = (rounded.bits << 23) + 0x3f800000u;
  *power = scale.number;

  const float n = rounded.number - BUS_ARITHMETIC_ROUND_MAGIC;
  float r = fmaf(n, -BUS_ARITHMETIC_LN2_HIGH, y);
  r = fmaf(n, -BUS_ARITHMETIC_LN2_LOW, r);

  float q = BUS_ARITHMETIC_EXP_C7;
  q = fmaf(q, r, BUS_ARITHMETIC_EXP_C6);
  q = fmaf(q, r, BUS_ARITHMETIC_EXP_C5);
  q = fmaf(q, r, BUS_ARITHMETIC_EXP_C4);
  q = fmaf(q, r, BUS_ARITHMETIC_EXP_C3);
  q = fmaf(q, r, BUS_ARITHMETIC_EXP_C2);
  return fmaf(r * r, q, r);
}

/* e^x, x clamped to -87..87 first (so -Inf gives 1.6e-38, not 0). NaN gives e^-87.
 * Error below 1.1 ulp for |x| <= 87. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_exp(float x)
{
  float power;
  float y = bus_arithmetic_max(x, -BUS_ARITHMETIC_EXP_LIMIT);
  y = bus_arithmetic_min(y, BUS_ARITHMETIC_EXP_LIMIT);
  const float value = bus_arithmetic_exp_parts(y, &power);
  return fmaf(power, value, power);
}

/* tanh(x) = e / (e + 2) with e = exp(2|x|) - 1, and the sign of x. e is made without cancellation,
 * so small x keep their precision. x must not be NaN. Error below 2.5 ulp. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_tanh(float x)
{
  union bus_arithmetic_bits in, out;
  float power;
  in.number = x;
  out.bits = in.bits & 0x7fffffffu;
  const float magnitude = bus_arithmetic_min(out.number, BUS_ARITHMETIC_TANH_LIMIT);
  const float value = bus_arithmetic_exp_parts(magnitude + magnitude, &power);
  const float e = fmaf(power, value, power - 1.0f);
  out.number = e / (e + 2.0f);
  out.bits |= in.bits & 0x80000000u;
  return out.number;
}

/* 1 / (1 + exp(-x)), between 1.6e-38 and 1. x must not be NaN. Error below 2.5 ulp for |x| <= 87.
 */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_sigmoid(float x)
{
  return 1.0f / (1.0f + bus_arithmetic_exp(-x));
}

/* max(x, +0). */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_relu(float x)
{
  return bus_arithmetic_max(x, 0.0f);
}

/* (x - mean) * scale, NaN read as 0, clamped to -8..8. `mean` and `scale` must be finite. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_normalise(float x, float mean, float scale)
{
  float y = bus_arithmetic_number((x - mean) * scale);
  y = bus_arithmetic_max(y, -BUS_ARITHMETIC_INPUT_LIMIT);
  return bus_arithmetic_min(y, BUS_ARITHMETIC_INPUT_LIMIT);
}

/* One output of a layer before its activation: the dot product of `weights[count]` and `x[count]`
 * plus `bias`, NaN read as 0.
 *
 * The reduction order is part of the format: four partial sums that start at +0, the p-th over
 * k = p, p+4, p+8, .. ascending, then ((s0 + s1) + (s2 + s3)) + bias. Four independent chains hide
 * the latency of fma, and vector code works on many outputs at once instead of adding up lanes. */
BUS_ARITHMETIC_FUNCTION float bus_arithmetic_dot(const float *weights, const float *x,
                                                 uint32_t count, float bias)
{
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (uint32_t k = 0; k < count; k++)
    sum[k % 4] = fmaf(weights[k], x[k], sum[k % 4]);
  return bus_arithmetic_number(((sum[0] + sum[1]) + (sum[2] + sum[3])) + bias);
}

/* Probabilities p[i] = exp(z[i]) / (exp(z[0]) + exp(z[1]) + exp(z[2])) of three logits, which may
 * be infinite but not NaN. The largest logit is subtracted first, and the sum is (e0 + e1) + e2.
 * `p` may be `z`. Every p is in 1e-39..1, and they add up to 1 within 2e-7. */
BUS_ARITHMETIC_FUNCTION void bus_arithmetic_softmax3(const float z[3], float p[3])
{
  float finite[3], e[3];
  for (int i = 0; i < 3; i++)
    finite[i] = bus_arithmetic_min(bus_arithmetic_max(z[i], -FLT_MAX), FLT_MAX);
  const float largest = bus_arithmetic_max(bus_arithmetic_max(finite[0], finite[1]), finite[2]);
  for (int i = 0; i < 3; i++)
    e[i] = bus_arithmetic_exp(finite[i] - largest);
  const float sum = (e[0] + e[1]) + e[2];
  for (int i = 0; i < 3; i++)
    p[i] = e[i] / sum;
}

#endif
