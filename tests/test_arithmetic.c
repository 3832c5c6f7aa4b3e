#include "kernels/arithmetic.h"
#include "tests/model_builder.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static float from_bits(uint32_t bits)
{
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

static uint32_t to_bits(float number)
{
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

/* The distance of `got` from the true value, in units of the true value's last place. */
static double error_ulp(float got, double truth)
{
  int exponent;
  frexp(truth, &exponent);
  return fabs((double)got - truth) / ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
}

typedef float (*function)(float);
typedef double (*truth)(double);

static double sigmoid_truth(double x)
{
  return 1.0 / (1.0 + exp(-x));
}

static float exp_here(float x)
{
  return bus_arithmetic_exp(x);
}

static float tanh_here(float x)
{
  return bus_arithmetic_tanh(x);
}

static float sigmoid_here(float x)
{
  return bus_arithmetic_sigmoid(x);
}

/* BUS_TEST_EXHAUSTIVE in the environment tests every float instead of each 499th. */
static double worst_ulp(function got, truth want, float limit)
{
  const uint32_t step = getenv("BUS_TEST_EXHAUSTIVE") != NULL ? 1 : 499;
  double worst = 0;
  for (uint32_t bits = 0; bits <= to_bits(limit); bits += step) {
    for (uint32_t sign = 0; sign < 2; sign++) {
      const float x = from_bits(bits | sign << 31);
      const double error = error_ulp(got(x), want((double)x));
      if (error > worst)
        worst = error;
    }
  }
  return worst;
}

Test(arithmetic, exp_is_within_its_bound)
{
  const double worst = worst_ulp(exp_here, exp, BUS_ARITHMETIC_EXP_LIMIT);
  cr_log_info("exp: %.4f ulp", worst);
  cr_assert_lt(worst, 1.1, "%g ulp", worst);
}

Test(arithmetic, tanh_is_within_its_bound)
{
  const double worst = worst_ulp(tanh_here, tanh, FLT_MAX);
  cr_log_info("tanh: %.4f ulp", worst);
  cr_assert_lt(worst, 2.5, "%g ulp", worst);
}

Test(arithmetic, sigmoid_is_within_its_bound)
{
  const double worst = worst_ulp(sigmoid_here, sigmoid_truth, BUS_ARITHMETIC_EXP_LIMIT);
  cr_log_info("sigmoid: %.4f ulp", worst);
  cr_assert_lt(worst, 2.5, "%g ulp", worst);
}

Test(arithmetic, exp_clamps_what_it_cannot_represent)
{
  const float low = bus_arithmetic_exp(-87.0f), high = bus_arithmetic_exp(87.0f);
  cr_assert(low >= FLT_MIN && isfinite(high) && 1.0f / high >= FLT_MIN);
  cr_assert_eq(bus_arithmetic_exp(-INFINITY), low);
  cr_assert_eq(bus_arithmetic_exp(-1e30f), low);
  cr_assert_eq(bus_arithmetic_exp(NAN), low);
  cr_assert_eq(bus_arithmetic_exp(INFINITY), high);
  cr_assert_eq(bus_arithmetic_exp(0.0f), 1.0f);
  cr_assert_eq(bus_arithmetic_exp(-0.0f), 1.0f);
}

Test(arithmetic, tanh_and_sigmoid_keep_their_ends)
{
  cr_assert_eq(bus_arithmetic_tanh(INFINITY), 1.0f);
  cr_assert_eq(bus_arithmetic_tanh(-INFINITY), -1.0f);
  cr_assert_eq(to_bits(bus_arithmetic_tanh(-0.0f)), 0x80000000u);
  cr_assert_eq(bus_arithmetic_tanh(from_bits(1)), from_bits(1), "denormals are kept");
  cr_assert_eq(bus_arithmetic_sigmoid(0.0f), 0.5f);
  cr_assert_eq(bus_arithmetic_sigmoid(INFINITY), 1.0f);
  cr_assert_gt(bus_arithmetic_sigmoid(-INFINITY), 0.0f);
}

Test(arithmetic, relu_and_normalise_read_nan_as_zero)
{
  cr_assert_eq(to_bits(bus_arithmetic_relu(NAN)), 0);
  cr_assert_eq(to_bits(bus_arithmetic_relu(-0.0f)), 0);
  cr_assert_eq(bus_arithmetic_relu(-1.0f), 0.0f);
  cr_assert_eq(bus_arithmetic_relu(3.0f), 3.0f);
  cr_assert_eq(to_bits(bus_arithmetic_normalise(NAN, 1.0f, 2.0f)), 0);
  cr_assert_eq(to_bits(bus_arithmetic_normalise(INFINITY, 1.0f, 0.0f)), 0);
  cr_assert_eq(bus_arithmetic_normalise(INFINITY, 1.0f, 2.0f), 8.0f);
  cr_assert_eq(bus_arithmetic_normalise(-FLT_MAX, 1.0f, FLT_MAX), -8.0f);
  cr_assert_eq(bus_arithmetic_normalise(2.0f, 1.0f, 0.5f), 0.5f);
}

Test(arithmetic, dot_adds_in_the_stated_order)
{
  /* 2^24 + 1 is lost in one sum and kept in two: the answer shows the order. */
  const float one[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  const float x[9] = {16777216.0f, 1, 0, 0, 1, 1, 0, 0, 1};
  /* s0 = 2^24 + 1 + 1 (each lost), s1 = 2; (2^24 + 2) + 0 + bias */
  cr_assert_eq(bus_arithmetic_dot(one, x, 9, 0.0f), 16777218.0f);
  cr_assert_eq(bus_arithmetic_dot(one, x, 0, 5.0f), 5.0f);
  const float huge[2] = {FLT_MAX, -FLT_MAX};
  const float ten[2] = {10, 10};
  cr_assert_eq(to_bits(bus_arithmetic_dot(huge, ten, 2, 0.0f)), 0, "inf - inf is read as 0");
}

Test(arithmetic, softmax_is_a_distribution_for_any_logits)
{
  uint64_t seed = 1;
  for (int i = 0; i < 200000; i++) {
    float z[3], p[3];
    for (int k = 0; k < 3; k++)
      z[k] = bus_arithmetic_number(i % 2 ? random_float(&seed) : 10.0f * random_number(&seed));
    bus_arithmetic_softmax3(z, p);
    for (int k = 0; k < 3; k++)
      cr_assert(p[k] > 0.0f && p[k] <= 1.0f, "%g %g %g: %g", z[0], z[1], z[2], p[k]);
    cr_assert_lt(fabs((double)p[0] + (double)p[1] + (double)p[2] - 1.0), 2e-7);
    const int best = z[0] > z[1] ? (z[0] > z[2] ? 0 : 2) : (z[1] > z[2] ? 1 : 2);
    cr_assert(p[best] >= p[0] && p[best] >= p[1] && p[best] >= p[2]);
  }
}

Test(arithmetic, softmax_is_close_to_the_truth)
{
  uint64_t seed = 2;
  for (int i = 0; i < 100000; i++) {
    float z[3], p[3];
    for (int k = 0; k < 3; k++)
      z[k] = 20.0f * random_number(&seed);
    bus_arithmetic_softmax3(z, p);
    const double sum = exp((double)z[0]) + exp((double)z[1]) + exp((double)z[2]);
    for (int k = 0; k < 3; k++)
      cr_assert_lt(fabs((double)p[k] - exp((double)z[k]) / sum), 3e-6 * exp((double)z[k]) / sum);
  }
}
