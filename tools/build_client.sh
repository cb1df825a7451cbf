#!/bin/sh
# Builds an example of clients/ out of this tree: the code that protoc makes of protos/, and the program. Installs
# nothing: what is missing is said in one line, with exit status 3.
# Usage: build_client.sh go|java|cpp OUT [PYTHON]  makes the program OUT/octet-example; PYTHON has Octet's packages.
set -eu
language=$1
case $language in
go | java | cpp) ;;
*)
    echo "octet: there is no example in '$language': go, java or cpp" >&2
    exit 2
    ;;
esac
mkdir -p "$2"
out=$(cd "$2" && pwd)
python=${3:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
protos=$root/protos

need() { # PROGRAM PACKAGE: of Debian
    command -v "$1" >/dev/null || missing "$1" "Debian: $2"
}
missing() {
    echo "octet: the example in $language is not built: $1 is missing ($2)" >&2
    exit 3
}
need protoc protobuf-compiler
known=$(dirname "$(command -v protoc)")/../include/google/protobuf/struct.proto
[ -e "$known" ] || missing google/protobuf/struct.proto "Debian: libprotobuf-dev"
google=$("$python" -c 'from google.api import annotations_pb2; print(annotations_pb2.__file__.rsplit("/", 3)[0])' 2>/dev/null) ||
    missing "google/api/annotations.proto" "pip install googleapis-common-protos"
chat="octet/v1/chat_service.proto octet/v1/content.proto octet/v1/tool.proto"

build_go() {
    # What tools/install_languages.sh unpacks goes before what is installed.
    for folder in "$root"/build/go/usr/bin "$root"/build/go/usr/lib/go-*/bin; do
        [ ! -d "$folder" ] || PATH=$folder:$PATH
    done
    need go golang-go
    need protoc-gen-go protoc-gen-go-1-5
    need protoc-gen-go-grpc protoc-gen-go-grpc
    # Debian's way: libraries as sources in GOPATH, and no modules to fetch.
    library=
    for folder in "$root/build/go/usr/share/gocode" /usr/share/gocode; do
        [ -n "$library" ] || [ ! -e "$folder/src/google.golang.org/grpc/clientconn.go" ] || library=$folder
    done
    [ -n "$library" ] || missing google.golang.org/grpc "Debian: golang-google-grpc-dev"
    grep -q '^func NewClient' "$library/src/google.golang.org/grpc/clientconn.go" ||
        missing "a google.golang.org/grpc with NewClient, 1.63 or newer," "tools/install_languages.sh unpacks one"
    source=$out/src/example.com/octet
    mkdir -p "$source"
    cp "$root/clients/go/main.go" "$source"
    # shellcheck disable=SC2086
    protoc -I "$protos" -I "$google" --go_out="$source" --go_opt=module=example.com/octet \
        --go-grpc_out="$source" --go-grpc_opt=module=example.com/octet $chat
    cd "$source"
    GO111MODULE=off GOFLAGS='' GOPATH=$out:$library go build -o "$out/octet-example" .
}

add_jars() { # PACKAGE JAR...: of Debian
    package=$1
    shift
    for jar; do
        [ -e "/usr/share/java/$jar.jar" ] || missing "$jar.jar" "Debian: $package"
        path=$path:/usr/share/java/$jar.jar
    done
}

build_java() {
    need javac default-jdk-headless
    need grpc_java_plugin protobuf-compiler-grpc-java-plugin
    path=
    add_jars libgrpc-java grpc-api grpc-context grpc-core grpc-netty grpc-protobuf grpc-protobuf-lite grpc-stub
    add_jars libnetty-java netty-buffer netty-codec netty-codec-http netty-codec-http2 netty-codec-socks netty-common \
        netty-handler netty-handler-proxy netty-resolver netty-transport netty-transport-native-unix-common
    add_jars libnetty-tcnative-java netty-tcnative
    add_jars libperfmark-java perfmark-api
    add_jars libguava-java guava
    add_jars libgoogle-gson-java gson
    add_jars libprotobuf-java protobuf
    add_jars libgoogle-common-protos-java proto-google-common-protos
    add_jars libgeronimo-annotation-1.3-spec-java geronimo-annotation-1.3-spec
    # With TLS, Debian's netty needs its native part, and looks for that by another name than Debian gives it.
    native=$(find /usr/lib -name libnetty-tcnative.so | head -1)
    [ -n "$native" ] || missing libnetty-tcnative.so "Debian: libnetty-tcnative-jni"
    mkdir -p "$out/generated" "$out/classes" "$out/lib"
    cp "$native" "$out/lib/libnetty_tcnative.so"
    # shellcheck disable=SC2086
    protoc -I "$protos" -I "$google" --java_out="$out/generated" --grpc_out="$out/generated" \
        --plugin=protoc-gen-grpc="$(command -v grpc_java_plugin)" $chat
    find "$out/generated" "$root/clients/java/src" -name '*.java' >"$out/sources"
    javac -nowarn -proc:none -cp "$path" -d "$out/classes" "@$out/sources"
    printf '#!/bin/sh\nexec java -Djava.library.path="%s" -cp "%s" octet.example.Example "$@"\n' \
        "$out/lib" "$out/classes:$path" >"$out/octet-example"
    chmod +x "$out/octet-example"
}

build_cpp() {
    need c++ g++
    need pkg-config pkgconf
    need grpc_cpp_plugin protobuf-compiler-grpc
    pkg-config --exists grpc++ protobuf || missing "gRPC for C++" "Debian: libgrpc++-dev"
    PATH=$(dirname "$(command -v "$python")"):$PATH
    need cmake cmake
    # Unoptimized: it waits for the server, and compiles in half the time.
    cmake -S "$root/clients/cpp" -B "$out/build" -DGOOGLEAPIS="$google" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0
    cmake --build "$out/build" --parallel "$(nproc)"
    cp "$out/build/octet-example" "$out"
}

"build_$language"
