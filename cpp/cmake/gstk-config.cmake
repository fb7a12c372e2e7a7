# gstk from its sources, as `pip install gstk` brings them. Two lines in your CMakeLists.txt:
#
#   find_package(gstk CONFIG REQUIRED)
#   target_link_libraries(app PRIVATE gstk::gstk)
#
# and -Dgstk_DIR=$(gstk cmake-dir): the library is then built with your program. It needs nlohmann-json, zlib, minizip
# and OpenSSL's libcrypto (Debian: nlohmann-json3-dev zlib1g-dev libminizip-dev libssl-dev), and OpenVINO, which is found
# beside gstk where pip installed both.
if(NOT TARGET gstk::gstk)
  get_filename_component(GSTK_SOURCE_DIR "${CMAKE_CURRENT_LIST_DIR}" DIRECTORY)
  get_filename_component(GSTK_SITE_PACKAGES "${GSTK_SOURCE_DIR}/../.." ABSOLUTE)
  if(NOT OpenVINO_DIR AND EXISTS "${GSTK_SITE_PACKAGES}/openvino/cmake/OpenVINOConfig.cmake")
    set(OpenVINO_DIR "${GSTK_SITE_PACKAGES}/openvino/cmake" CACHE PATH "Folder of OpenVINOConfig.cmake")
  endif()
  add_subdirectory("${GSTK_SOURCE_DIR}" "${CMAKE_CURRENT_BINARY_DIR}/gstk" EXCLUDE_FROM_ALL)
endif()
