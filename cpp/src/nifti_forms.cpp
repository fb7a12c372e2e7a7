#include "nifti_forms.hpp"

#include <cmath>
#include <iomanip>
#include <optional>

namespace gstk::impl {
namespace {

using namespace nifti;

constexpr double kSameSpacing = 0.01;
constexpr double kSamePlaceVoxels = 0.1;
constexpr double kAtRightAngles = 1e-4, kLargestShear = 1.01e-3, kSameDirection = 1e-5;

// Axes as columns, x, y and z, and the place of the first voxel; RAS.
struct Form {
    Matrix axes{};
    Triple origin{};
};

Matrix without_lengths(Matrix axes, const Triple& lengths) {
    for (auto& row : axes)
        for (int c = 0; c < 3; ++c) row[c] /= lengths[c];
    return axes;
}

double product(const Matrix& axes, int a, int b) {
    return axes[0][a] * axes[0][b] + axes[1][a] * axes[1][b] + axes[2][a] * axes[2][b];
}

bool is_finite(const Form& form) {
    double sum = 0;
    for (int r = 0; r < 3; ++r) {
        sum += std::abs(form.origin[r]);
        for (const double v : form.axes[r]) sum += std::abs(v);
    }
    return std::isfinite(sum);
}

bool can_be_inverted(const Form& form) {
    const Triple lengths = lengths_of(form.axes);
    if (!is_finite(form) || std::min({lengths[0], lengths[1], lengths[2]}) == 0) return false;
    return std::abs(determinant(without_lengths(form.axes, lengths))) > 1e-6;
}

Form sform_of(const NiftiHeader& header) {
    Form form;
    for (std::size_t r = 0; r < 3; ++r) {
        for (std::size_t c = 0; c < 3; ++c) form.axes[r][c] = header.get(kSform, 4 * r + c);
        form.origin[r] = header.get(kSform, 4 * r + 3);
    }
    return form;
}

Form qform_of(const NiftiHeader& header) {
    double a = 0, b = header.get(kQuaternion, 0), c = header.get(kQuaternion, 1), d = header.get(kQuaternion, 2);
    const double squares = b * b + c * c + d * d;
    if (1 - squares < 1e-7) {  // half a turn
        const double length = squares > 0 ? std::sqrt(squares) : 1;
        b /= length, c /= length, d /= length;
    } else {
        a = std::sqrt(1 - squares);
    }
    Form form{{Triple{a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)},
               {2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)},
               {2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b}},
              {}};
    for (std::size_t r = 0; r < 3; ++r) {
        for (std::size_t col = 0; col < 3; ++col) form.axes[r][col] *= std::abs(header.get(kPixdim, col + 1));
        if (header.get(kPixdim) < 0) form.axes[r][2] = -form.axes[r][2];
        form.origin[r] = header.get(kQuaternion, 3 + r);
    }
    return form;
}

// How far apart two forms put any corner of an image of these sides (z, y, x).
double largest_offset(const Form& first, const Form& second, const Shape& shape) {
    double largest = 0;
    for (int corner = 0; corner < 8; ++corner) {
        double squares = 0;
        for (int r = 0; r < 3; ++r) {
            double off = first.origin[r] - second.origin[r];
            for (int c = 0; c < 3; ++c)
                if (corner >> c & 1)
                    off += (first.axes[r][c] - second.axes[r][c]) * static_cast<double>(shape[2 - c] - 1);
            squares += off * off;
        }
        largest = std::max(largest, std::sqrt(squares));
    }
    return largest;
}

double mm_per_unit(int units) {
    return (units & 7) == 1 ? 1000 : (units & 7) == 3 ? 0.001 : 1;
}

std::string short_number(double value) {
    return joined(std::setprecision(3), value);
}

void check_angles(const Matrix& direction, const std::string& name, std::vector<std::string>& notes) {
    const double x_y = std::abs(product(direction, 0, 1));
    const double off = std::max(x_y, std::hypot(product(direction, 0, 2), product(direction, 1, 2)));
    if (off <= kAtRightAngles) return;
    const std::string what = "the axes of " + name + " are up to " +
                             short_number(std::asin(std::min(1.0, off)) * 180 / std::acos(-1.0)) +
                             " degrees off right angles";
    if (off > kLargestShear)
        throw error(GSTK_ERROR_CASE, "cannot read ", name, ": ", what,
                    "; use `gstk infer` or gstk in Python, which resample a gantry tilt, or resample it yourself");
    notes.push_back(what + "; they are taken as at right angles");
}

// The first three numbers of a rotation as a unit quaternion whose fourth is not negative.
Triple quaternion_of(const Matrix& m) {
    const double trace = m[0][0] + m[1][1] + m[2][2];
    std::array<double, 4> q{};
    int largest = 0;
    for (int i = 1; i < 3; ++i)
        if (m[i][i] > m[largest][largest]) largest = i;
    if (trace >= m[largest][largest]) {
        q = {m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1], 1 + trace};
    } else {
        const int i = largest, j = (i + 1) % 3, k = (i + 2) % 3;
        q[i] = 1 - trace + 2 * m[i][i];
        q[j] = m[j][i] + m[i][j];
        q[k] = m[k][i] + m[i][k];
        q[3] = m[k][j] - m[j][k];
    }
    const double sign = q[3] < 0 ? -1 : 1;
    const double length = sign * std::sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]);
    return {q[0] / length, q[1] / length, q[2] / length};
}

}  // namespace

Geometry geometry_of(const NiftiHeader& header, const Shape& shape, const std::string& name,
                     std::vector<std::string>& notes) {
    const double unit = mm_per_unit(static_cast<int>(header.get(kUnits)));
    std::optional<Form> forms[2];
    const double codes[2] = {header.get(kCodes, 1), header.get(kCodes, 0)};
    const char* const names[2] = {"sform", "qform"};
    for (int i = 0; i < 2; ++i) {
        if (!(codes[i] > 0)) continue;
        forms[i] = i == 0 ? sform_of(header) : qform_of(header);
        if (can_be_inverted(*forms[i])) continue;
        forms[i].reset();
        notes.push_back(joined("the ", names[i], " of ", name, " is not finite, or has no volume; it is passed over"));
    }
    Form chosen;
    Triple stated;
    for (std::size_t a = 0; a < 3; ++a) stated[a] = std::abs(header.get(kPixdim, a + 1));
    const bool states_all = stated[0] != 0 && stated[1] != 0 && stated[2] != 0;
    if (forms[0] || forms[1]) {
        chosen = forms[0] ? *forms[0] : *forms[1];
    } else {
        std::string axes;
        for (std::size_t a = 0; a < 3; ++a) {
            chosen.axes[a][a] = stated[a] == 0 ? 1 : stated[a];
            if (stated[a] == 0) axes += (axes.empty() ? "" : ", ") + std::string(1, "xyz"[a]);
        }
        if (!states_all) notes.push_back(name + " states no spacing along " + axes + "; 1 is assumed");
    }
    if (forms[0] && !forms[1] && states_all) {
        const Triple steps = lengths_of(chosen.axes);
        double off = 0;
        for (std::size_t a = 0; a < 3; ++a) off = std::max(off, std::abs(steps[a] / stated[a] - 1));
        const auto shown = [](const Triple& t) {
            return "(" + short_number(t[0]) + ", " + short_number(t[1]) + ", " + short_number(t[2]) + ")";
        };
        if (off > kSameSpacing && std::isfinite(stated[0] + stated[1] + stated[2]))
            notes.push_back("the sform of " + name + " has voxels of " + shown(steps) + " along (x, y, z), its pixdim states " +
                            shown(stated) + "; the sform is taken, and its mask carries both");
    }
    if (forms[0] && forms[1]) {
        const double off_mm = largest_offset(*forms[0], *forms[1], shape);
        const Triple sides = lengths_of(chosen.axes);
        if (off_mm > kSamePlaceVoxels * std::min({sides[0], sides[1], sides[2]}))
            notes.push_back("the sform and the qform of " + name + " put it up to " + short_number(off_mm * unit) +
                            " mm apart; its place is taken by the sform (" + joined("code ", codes[0]) +
                            "), and its mask carries both");
    }
    for (int r = 0; r < 3; ++r) {
        const double factor = r < 2 ? -unit : unit;  // from RAS to LPS
        for (double& value : chosen.axes[r]) value *= factor;
        chosen.origin[r] *= factor;
    }
    const Triple sides = lengths_of(chosen.axes);
    if (!is_finite(chosen) || !(std::min({sides[0], sides[1], sides[2]}) > 0))
        throw error(GSTK_ERROR_CASE, "got an affine of ", name,
                    " that is not finite, or has an axis of length 0; correct its header");
    Matrix direction = without_lengths(chosen.axes, sides);
    for (auto& row : direction)
        for (double& value : row) value += 0.0;  // no negative zeros
    check_angles(direction, name, notes);
    return Geometry(shape, {sides[2], sides[1], sides[0]}, chosen.origin, direction);
}

NiftiHeader header_of(const Geometry& geometry) {
    const Shape& shape = geometry.shape();
    NiftiHeader header = NiftiHeader::fresh(*std::max_element(shape.begin(), shape.end()) >= 1 << 15);
    Matrix axes = geometry.direction();
    for (int r = 0; r < 2; ++r)
        for (double& value : axes[r]) value = 0.0 - value;  // from LPS to RAS, without negative zeros
    axes = without_lengths(axes, lengths_of(axes));
    const bool is_mirrored = determinant(axes) < 0;
    header.set(kDim, 3);
    header.set(kPixdim, is_mirrored ? -1 : 1);
    header.set(kUnits, 2);
    for (std::size_t i = 0; i < 7; ++i) header.set(kDim, i < 3 ? static_cast<double>(shape[2 - i]) : 1, i + 1);
    for (std::size_t i = 0; i < 3; ++i) header.set(kPixdim, geometry.spacing_mm()[2 - i], i + 1);
    double off = 0;
    for (int a = 0; a < 3; ++a)
        for (int b = a; b < 3; ++b) off = std::max(off, std::abs(product(axes, a, b) - (a == b ? 1 : 0)));
    const bool at_right_angles = off <= kSameDirection;
    header.set(kCodes, at_right_angles ? 1 : 0, 0);
    header.set(kCodes, 1, 1);
    for (std::size_t r = 0; r < 3; ++r) {
        const double origin = r < 2 ? 0.0 - geometry.origin_mm()[r] : geometry.origin_mm()[r];
        for (std::size_t c = 0; c < 3; ++c) header.set(kSform, axes[r][c] * geometry.spacing_mm()[2 - c], 4 * r + c);
        header.set(kSform, origin, 4 * r + 3);
        if (at_right_angles) header.set(kQuaternion, origin, 3 + r);
    }
    if (is_mirrored)
        for (auto& row : axes) row[2] = -row[2];
    if (at_right_angles) {
        const Triple turn = quaternion_of(axes);
        for (std::size_t i = 0; i < 3; ++i) header.set(kQuaternion, turn[i], i);
    }
    return header;
}

}  // namespace gstk::impl
