"""cmake --install, and a program of a stranger that finds the package and uses it."""

import os
import subprocess
import unittest

from program import ProgramTest, random_matrix

CMAKE = os.environ.get("RANKFOLD_CMAKE", "cmake")

PROJECT = """
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C CXX)
find_package(rankfold 0.1 REQUIRED)
add_executable(consumer consumer.cpp)
target_link_libraries(consumer PRIVATE rankfold::factor rankfold::data)
"""

SOURCE = """
#include <cstdio>
#include <rankfold/comm/session.hpp>
#include <rankfold/data/tensor_file.hpp>
int main(int argc, char** argv) {
    rankfold::Session session(argc, argv);
    rankfold::Ledger ledger;
    rankfold::Communicator comm(ledger);
    const auto factors = rankfold::read_factors<float>(comm, argv[1]);
    if (comm.is_root()) std::printf("k = %d", static_cast<int>(factors.k()));
}
"""


class Install(ProgramTest):
    def tool(self, *command):
        done = subprocess.run(list(map(str, command)), cwd=self.folder, text=True,
                              capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_a_consumer_builds_against_the_installed_package(self):
        prefix = self.folder / "prefix"
        self.tool(CMAKE, "--install", os.environ["RANKFOLD_BUILD"], "--prefix", prefix)
        self.assertIn("rankfold", self.tool(prefix / "bin/rankfold", "--version"))
        self.write("CMakeLists.txt", PROJECT)
        self.write("consumer.cpp", SOURCE)
        self.tool(CMAKE, "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={prefix}")
        self.tool(CMAKE, "--build", "build")
        self.write_matrix("a.h5", random_matrix(20, 10))
        self.tool(prefix / "bin/rankfold", "als", "a.h5", "--factors", 3, "--out", "f.h5")
        self.assertEqual(self.tool("./build/consumer", "f.h5"), "k = 3")


if __name__ == "__main__":
    unittest.main()
