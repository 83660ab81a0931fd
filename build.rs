//! Generates the gRPC types from `proto/` with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["v1alpha1/service.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // `Bytes` keeps file contents in the buffer that zeroes itself.
        .bytes(".v1alpha1.File.contents")
        // Requests carry tokens and responses carry secrets: neither may be printable.
        .skip_debug([".v1alpha1.MountRequest", ".v1alpha1.MountResponse", ".v1alpha1.File"])
        .build_client(true)
        .compile_fds(files)?;
    Ok(())
}
