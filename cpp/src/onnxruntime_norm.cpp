// ONNX Runtime's kernel of InstanceNormalization adds up a channel's voxels in float32, and its error grows with their
// number. Mean and variance are taken along one axis after the other here.
#include "onnxruntime_norm.hpp"

#include <array>
#include <fstream>
#include <map>
#include <stdexcept>
#include <vector>

#include "error.hpp"
#include "onnx_messages.hpp"

namespace gstk::impl {
namespace {

// Fields of onnx.proto.
constexpr std::uint64_t kGraph = 7;
constexpr std::uint64_t kNode = 1, kInitialiser = 5;
constexpr std::uint64_t kInput = 1, kOutput = 2, kKind = 4, kAttribute = 5, kFloatValue = 2;
constexpr std::uint64_t kDimension = 1, kType = 2, kTensorName = 8, kRaw = 9, kExternal = 13, kLocation = 14;
constexpr std::uint64_t kFloat = 1, kInt64 = 7;

const std::string kPrefix = "gstk.norm";
const std::string kDepth = kPrefix + ".axis4", kRow = kPrefix + ".axis3", kColumn = kPrefix + ".axis2",
                  kShape = kPrefix + ".shape";

struct Norm {
    std::vector<std::string> inputs;  // x, scale, bias
    std::string output;
    std::string epsilon;  // four bytes of a float32
};

std::string epsilon_name(const std::string& epsilon) {
    std::string name = kPrefix + ".epsilon";
    for (const unsigned char byte : epsilon) name += joined(".", static_cast<int>(byte));
    return name;
}

std::string text_of(const std::string& content, const Field& field) {
    return content.substr(field.value, field.end - field.value);
}

// The parts of a node that is an instance norm; false for every other.
bool is_norm(const std::string& content, Norm& norm) {
    const float usual = 1e-5f;
    norm.epsilon.assign(reinterpret_cast<const char*>(&usual), sizeof usual);
    std::string kind;
    const auto read = bytes_of(content);
    for (const auto& field : fields(read, 0, content.size())) {
        if (field.number == kInput) norm.inputs.push_back(text_of(content, field));
        if (field.number == kOutput) norm.output = text_of(content, field);
        if (field.number == kKind) kind = text_of(content, field);
        if (field.number == kAttribute)  // an instance norm has one, epsilon
            for (const auto& part : fields(read, field.value, field.end))
                if (part.number == kFloatValue) norm.epsilon = text_of(content, part);
    }
    return kind == "InstanceNormalization" && norm.inputs.size() == 3;
}

std::string exact_norm(const Norm& norm) {
    const auto own = [&](const char* name) { return norm.output + "/" + kPrefix + "." + name; };
    const std::string &x = norm.inputs[0], &scale = norm.inputs[1], &bias = norm.inputs[2];
    return node_field("ReduceMean", {x, kDepth}, own("rows")) +
           node_field("ReduceMean", {own("rows"), kRow}, own("planes")) +
           node_field("ReduceMean", {own("planes"), kColumn}, own("mean")) +
           node_field("Sub", {x, own("mean")}, own("centred")) +
           // Its mean would take a tensor of squares.
           node_field("ReduceSumSquare", {own("centred"), kDepth}, own("square_rows")) +
           node_field("ReduceMean", {own("square_rows"), kRow}, own("square_planes")) +
           node_field("ReduceMean", {own("square_planes"), kColumn}, own("squares")) +
           node_field("Shape", {x}, own("depth"), {{"start", 4}, {"end", 5}}) +
           node_field("Cast", {own("depth")}, own("count"), {{"to", kFloat}}) +
           node_field("Div", {own("squares"), own("count")}, own("variance")) +
           node_field("Add", {own("variance"), epsilon_name(norm.epsilon)}, own("positive")) +
           node_field("Sqrt", {own("positive")}, own("deviation")) +
           node_field("Reshape", {scale, kShape}, own("scale")) +
           node_field("Div", {own("scale"), own("deviation")}, own("factor")) +
           node_field("Mul", {own("centred"), own("factor")}, own("scaled")) +
           node_field("Reshape", {bias, kShape}, own("bias")) +
           node_field("Add", {own("scaled"), own("bias")}, norm.output);
}

std::string constant(const std::string& name, std::uint64_t type, const std::string& content, std::uint64_t length) {
    const std::string dimension = length ? number_field(kDimension, length) : "";
    return bytes_field(kInitialiser, dimension + number_field(kType, type) + bytes_field(kTensorName, name) +
                                         bytes_field(kRaw, content));
}

std::string integers(const std::vector<std::int64_t>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(std::int64_t)};
}

// An initialiser whose bytes are named by their place in the file; one without bytes of its own as it is.
std::string mapped(const ReadBytes& read, const Field& field, const std::string& file_name) {
    std::string content;
    bool is_mapped = false;
    for (const auto& own : fields(read, field.value, field.end)) {
        if (own.number != kRaw) {
            content += read(own.begin, own.end);
            continue;
        }
        is_mapped = true;
        const std::string offset = std::to_string(own.value), length = std::to_string(own.end - own.value);
        const std::array<std::pair<const char*, std::string>, 3> place{
            {{"location", file_name}, {"offset", offset}, {"length", length}}};
        for (const auto& [name, value] : place)
            content += bytes_field(kExternal, bytes_field(1, name) + bytes_field(2, value));
        content += number_field(kLocation, 1);
    }
    return is_mapped ? bytes_field(kInitialiser, content) : read(field.begin, field.end);
}

std::string graph_content(const ReadBytes& read, const Field& graph, const std::string& file_name) {
    std::string content;
    std::map<std::string, std::string> epsilons;
    for (const auto& field : fields(read, graph.value, graph.end)) {
        if (field.number == kInitialiser && field.end - field.value >= kMappedBytes) {
            content += mapped(read, field, file_name);
            continue;
        }
        Norm norm;
        if (field.number == kNode && is_norm(read(field.value, field.end), norm)) {
            epsilons[epsilon_name(norm.epsilon)] = norm.epsilon;
            content += exact_norm(norm);
        } else {
            content += read(field.begin, field.end);
        }
    }
    content += constant(kDepth, kInt64, integers({4}), 1) + constant(kRow, kInt64, integers({3}), 1) +
               constant(kColumn, kInt64, integers({2}), 1) + constant(kShape, kInt64, integers({1, -1, 1, 1, 1}), 5);
    for (const auto& [name, epsilon] : epsilons) content += constant(name, kFloat, epsilon, 0);
    return content;
}

}  // namespace

std::string exact_graph(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::error_code none;
    const std::uint64_t size = std::filesystem::file_size(file, none);
    if (!stream || none) throw std::runtime_error("cannot read " + printable(file.string()));
    const ReadBytes read = [&](std::uint64_t begin, std::uint64_t end) {
        std::string content(static_cast<std::size_t>(end - begin), '\0');
        stream.seekg(static_cast<std::streamoff>(begin));
        stream.read(content.data(), static_cast<std::streamsize>(content.size()));
        if (!stream) throw std::runtime_error("cannot read " + printable(file.string()));
        return content;
    };
    std::string model;
    for (const auto& field : fields(read, 0, size))
        model += field.number == kGraph ? bytes_field(kGraph, graph_content(read, field, file.filename().u8string()))
                                        : read(field.begin, field.end);
    return model;
}

}  // namespace gstk::impl
