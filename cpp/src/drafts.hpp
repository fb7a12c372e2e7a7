// Folders for files in the making: gone when their block ends, and swept away later where their process was killed;
// mirrors gstk.core.drafts, whose names and rules it shares, so that each of the two clears up after the other.
#pragma once

#include <filesystem>

namespace gstk::impl {

// A hidden folder, which only this user may look into, beside what is written; removed with all in it at the end.
class Draft {
  public:
    // Sweeps the folder `beside`, once in the life of this process, and makes one in it. Throws fs::filesystem_error.
    explicit Draft(const std::filesystem::path& beside);
    ~Draft();
    Draft(const Draft&) = delete;
    Draft& operator=(const Draft&) = delete;

    const std::filesystem::path& folder() const { return folder_; }

  private:
    std::filesystem::path folder_;
};

}  // namespace gstk::impl
