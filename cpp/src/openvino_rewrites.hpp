// Graph rewrites for OpenVINO's CPU plugin; each mirrors the module of gstk.engines that its file is named after, which
// says why it is there. All work in place, before a model is compiled, and return how many places they rewrote.
#pragma once

#include <memory>

#include <openvino/core/model.hpp>
#include <openvino/runtime/core.hpp>

namespace gstk::impl {

// The encoder's output, and the decoder's input, as [1,H/2,W/2,D/2,C] (openvino_layout).
// by_product: by a product with the identity, which the plugin may round to bfloat16, as INT8 encoders have it.
void give_channels_last(const std::shared_ptr<ov::Model>& encoder, bool by_product);
void take_channels_last(const std::shared_ptr<ov::Model>& decoder);

// The image tokens that a prompt decoder of that layout, with B fixed to 1, upsamples, without transposes; and its
// attention of image tokens to prompt tokens as rows (openvino_attention).
int upsample_tokens(const std::shared_ptr<ov::Model>& model);
int softmax_over_rows(const std::shared_ptr<ov::Model>& model);

// The last product of the prompt decoder, with B fixed to 1, as a convolution; and the number that is added to its
// logits, as to one row (openvino_fold).
int convolve_last_product(const std::shared_ptr<ov::Model>& model);
int add_to_row(const std::shared_ptr<ov::Model>& model);

// A prompt decoder of an older gstk, with B fixed to 1, that ignores points of kIgnored; 0 for a graph of another make
// (openvino_padding).
int ignore_padding(const std::shared_ptr<ov::Model>& model);
// Whether a compiled decoder is one of those.
bool ignores_padding(const ov::CompiledModel& compiled);

// Whether a model has INT8 activations (openvino_int8).
bool is_quantised(const ov::Model& model);
// Whether INT8 convolutions saturate here: one whose exact result is known is run (openvino_saturation).
bool products_saturate(ov::Core& core);
// 8-bit weights in steps whose products do not saturate (openvino_saturation).
int narrow_weights(const std::shared_ptr<ov::Model>& model);
// Signed quantisations behind a ReLU in all 256 steps (openvino_int8).
int widen_unsigned(const std::shared_ptr<ov::Model>& model);
struct FusedSums {
    int unrounded = 0;  // operands that are no longer rounded
    int passed = 0;     // operands rounded behind a minimum
};
// Residual sums within convolutions (openvino_int8).
FusedSums fuse_residual_sums(const std::shared_ptr<ov::Model>& model);

// Most side of the blocks whose means are taken first, voxels.
constexpr std::int64_t kNormBlock = 8;
// Instance norms as means of block means, which stay exact on large regions (openvino_norm). multiple: what the sides
// of an image are multiples of. squares: variances are mean squares less the mean's square, as for a decoder.
int split_instance_norms(const std::shared_ptr<ov::Model>& model, std::int64_t multiple, bool squares);

}  // namespace gstk::impl
