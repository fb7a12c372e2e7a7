# The installed package: find_package(gstk CONFIG), gstk::gstk, and pkg-config's gstk. Nothing in it names this folder.
include(CMakePackageConfigHelpers)

set(GSTK_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/gstk)
install(TARGETS gstk EXPORT gstk-targets)
install(DIRECTORY include/gstk DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(EXISTS ${GSTK_SOURCE_BUNDLES})
  install(DIRECTORY ${GSTK_SOURCE_BUNDLES}/ DESTINATION ${CMAKE_INSTALL_DATADIR}/gstk/bundles)
endif()
install(EXPORT gstk-targets NAMESPACE gstk:: DESTINATION ${GSTK_PACKAGE_DIR})
configure_package_config_file(cmake/installed-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/gstk-config.cmake
  INSTALL_DESTINATION ${GSTK_PACKAGE_DIR})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/gstk-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gstk-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/gstk-config-version.cmake
  DESTINATION ${GSTK_PACKAGE_DIR})
# A static library's users link what it needs themselves; pkg-config tells them what has a .pc file.
set(GSTK_PC_REQUIRES "")
if(NOT BUILD_SHARED_LIBS)
  set(GSTK_PC_REQUIRES "zlib minizip libcrypto")
endif()
file(RELATIVE_PATH GSTK_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/gstk.pc.in ${CMAKE_CURRENT_BINARY_DIR}/gstk.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/gstk.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
