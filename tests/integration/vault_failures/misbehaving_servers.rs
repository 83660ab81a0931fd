//! A misbehaving or hostile server costs only its own mount time: no delay for other mounts, no memory, no descriptors.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use vaultmount::provider::client::Client;

use crate::support::{bao::Tenant, daemon::ProviderProcess, pod::Pod};

/// Reaction of a server to a request.
type Misbehavior = fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

const RESPONSE_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
/// Timeout of mounts from misbehaving servers.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(6);

/// Every misbehavior, with a part of the expected mount error.
const MISBEHAVIORS: [(&str, Misbehavior, &str); 10] = [
    (
        "never answers",
        |to| {
            Box::pin(async move {
                let _held = to;
                std::future::pending().await
            })
        },
        "",
    ),
    ("accepts and closes", |_| Box::pin(async { Ok(()) }), "[VM0004]"),
    (
        "a byte a second",
        |mut to| {
            Box::pin(async move {
                to.write_all(format!("{RESPONSE_HEAD}content-length: 1000\r\n\r\n").as_bytes()).await?;
                loop {
                    to.write_all(b" ").await?;
                    sleep(Duration::from_secs(1)).await;
                }
            })
        },
        "",
    ),
    (
        "a body of a gigabyte",
        |mut to| {
            Box::pin(async move {
                to.write_all(format!("{RESPONSE_HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
                let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
                for _ in 0..16384 {
                    to.write_all(&chunk).await?;
                }
                to.write_all(b"0\r\n\r\n").await
            })
        },
        "",
    ),
    (
        "a body that is said to be a gigabyte",
        |mut to| {
            Box::pin(async move {
                to.write_all(format!("{RESPONSE_HEAD}content-length: 1073741824\r\n\r\n").as_bytes()).await?;
                let _held = to;
                std::future::pending().await
            })
        },
        "",
    ),
    (
        "bad gzip",
        |mut to| {
            Box::pin(async move {
                let body = "\u{1f}not gzip at all";
                let head = format!("{RESPONSE_HEAD}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
                to.write_all((head + body).as_bytes()).await
            })
        },
        "",
    ),
    (
        "wrong content type",
        |mut to| {
            Box::pin(async move {
                let body = "<html>log in here</html>";
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n";
                to.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
            })
        },
        "[VM0011]",
    ),
    (
        "closes in the middle of the body",
        |mut to| {
            Box::pin(async move {
                to.write_all(format!("{RESPONSE_HEAD}content-length: 1000\r\n\r\n{{\"auth").as_bytes()).await
            })
        },
        "",
    ),
    (
        "headers without end",
        |mut to| {
            Box::pin(async move {
                to.write_all(RESPONSE_HEAD.as_bytes()).await?;
                for n in 0u64.. {
                    to.write_all(format!("x-{n}: {}\r\n", "a".repeat(1000)).as_bytes()).await?;
                }
                Ok(())
            })
        },
        "",
    ),
    (
        "redirects to itself",
        |mut to| {
            Box::pin(async move {
                let head =
                    "HTTP/1.1 307 Temporary Redirect\r\nlocation: /v1/auth/jwt/login\r\ncontent-length: 0\r\n\r\n";
                to.write_all(head.as_bytes()).await
            })
        },
        "[VM0012]",
    ),
];

/// The request at which a server begins to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailurePoint {
    Login,
    Read,
}

/// Starts a server that misbehaves at `at` and returns its address.
async fn misbehaving_server(sickness: Misbehavior, at: FailurePoint) -> String {
    serve_requests(move |request, mut stream| async move {
        let is_well = at == FailurePoint::Read && (request.contains("/login ") || request.contains("/v1/sys/"));
        if is_well {
            let body = if request.contains("/login ") { LOGIN_RESPONSE } else { "{}" };
            write_response(&mut stream, body).await.ok()?;
            return Some(stream);
        }
        let _ = sickness(stream).await;
        None
    })
    .await
}

/// Response to a login.
const LOGIN_RESPONSE: &str = r#"{"auth":{"client_token":"t","lease_duration":3600}}"#;

/// Starts a server that accepts every login and returns a secret of `size` bytes at every path; returns its address.
async fn large_secret_server(size: usize) -> String {
    let secret: Arc<str> = format!(r#"{{"data":{{"pass":"{}"}}}}"#, "a".repeat(size)).into();
    serve_requests(move |request, mut stream| {
        let secret = secret.clone();
        async move {
            let body = match () {
                () if request.contains("/login ") => LOGIN_RESPONSE,
                () if request.contains("/v1/sys/") => "{}",
                () => &secret,
            };
            write_response(&mut stream, body).await.ok()?;
            Some(stream)
        }
    })
    .await
}

async fn write_response(to: &mut TcpStream, body: &str) -> std::io::Result<()> {
    to.write_all(format!("{RESPONSE_HEAD}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
}

/// Passes each request's head and connection to `handle` while `handle` returns the connection. Returns the address.
async fn serve_requests<F>(handle: impl Fn(String, TcpStream) -> F + Clone + Send + 'static) -> String
where
    F: Future<Output = Option<TcpStream>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let handle = handle.clone();
            tokio::spawn(async move {
                let mut next = Some(stream);
                while let Some(mut stream) = next {
                    let (mut request, mut part) = (Vec::new(), [0; 4096]);
                    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut part).await {
                            Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                            _ => return,
                        }
                    }
                    next = handle(String::from_utf8_lossy(&request).into_owned(), stream).await;
                }
            });
        }
    });
    address
}

fn count_descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Returns the peak resident memory of the process, in MB.
fn peak_memory_mb(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    kilobytes.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn misbehaving_login_costs_only_its_own_mount() {
    assert_costs_only_own_mount(FailurePoint::Login, 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn misbehaving_read_costs_only_its_own_mount() {
    assert_costs_only_own_mount(FailurePoint::Read, 6).await;
}

/// Checks that many concurrent mounts of each misbehavior do not delay other mounts, use little memory, and release
/// their descriptors.
async fn assert_costs_only_own_mount(at: FailurePoint, mounts_of_each: usize) {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let objects = format!("- {{objectName: a, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    // All mounts share one namespace, so `--max-mounts` must admit all of them at once.
    let program = ProviderProcess::start(&["--allow-address=http://127.0.0.1:*", "--max-mounts=1000"]).await;
    let pid = program.child.id().unwrap();
    let well = async || {
        let mut client = Client::connect(&program.socket).await.unwrap();
        client.version().await.unwrap();
        client.mount(Pod::for_tenant(&tenant).with_objects(objects.as_str()).mount_call()).await.unwrap();
    };
    well().await;
    let before = count_descriptors(pid);
    let mut mounts = Vec::new();
    for (name, sickness, expected) in MISBEHAVIORS {
        let address = misbehaving_server(sickness, at).await;
        for _ in 0..mounts_of_each {
            let pod = Pod::for_tenant(&tenant).with_objects(objects.as_str()).with_parameter("vaultAddress", &address);
            let socket = program.socket.clone();
            mounts.push(tokio::spawn(async move {
                let mut call = pod.mount_call();
                call.timeout = Some(MOUNT_TIMEOUT);
                let begun = Instant::now();
                let outcome = Client::connect(&socket).await.unwrap().mount(call).await;
                let Err(status) = outcome else { panic!("{name} gave files") };
                let took = begun.elapsed();
                assert!(took < MOUNT_TIMEOUT * 3, "{name} took {took:?}");
                let expected = if at == FailurePoint::Login { expected } else { "" };
                assert!(status.message().contains(expected) && status.message().contains("[VM"), "{name}: {status}");
                assert!(!status.message().contains("eyJ"), "{name}: {status}");
                (name, status.message().to_owned())
            }));
        }
    }
    // Other mounts run one after another meanwhile. One that waited for a misbehaving server would still be there
    // afterwards.
    let mut others = 0;
    let mut mounts = join_all(mounts);
    let results = loop {
        tokio::select! {
            results = &mut mounts => break results,
            () = well() => others += 1,
        }
    };
    assert!(others >= 3, "{others} were mounted meanwhile");
    let mut last = "";
    for (name, text) in results.into_iter().map(Result::unwrap) {
        if last != name {
            eprintln!("{name}: {text}");
            last = name;
        }
    }
    let memory = peak_memory_mb(pid);
    assert!(memory < 200, "{memory} MB, where gigabytes were given");
    // At most sixteen idle connections per responsive server stay open for a while. Requests that may have created
    // something are awaited for one minute, at most four per server.
    let begun = Instant::now();
    while count_descriptors(pid) > before + 16 * 4 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} descriptors, {before} before", count_descriptors(pid));
        sleep(Duration::from_millis(100)).await;
    }
    well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_budget_of_pod_rejects_excess_responses() {
    let tenant = Tenant::new().await;
    tenant.write_secret("db", json!({"pass": "s3cret"})).await;
    let program = ProviderProcess::start(&["--allow-address=http://127.0.0.1:*"]).await;
    let address = large_secret_server(7 << 20).await;
    let object = |n| format!("- {{objectName: a{n}, secretPath: kv/data/{n}, secretKey: pass}}\n");
    // Some responses fit into the cache and stay there; the others are not cached.
    let many: String = (0..40).map(object).collect();
    for _ in 0..4 {
        let pod = Pod::for_tenant(&tenant).with_objects(many.as_str()).with_parameter("vaultAddress", &address);
        let refused = Client::connect(&program.socket).await.unwrap().mount(pod.mount_call()).await.err().unwrap();
        assert!(refused.message().contains("to one pod exceed 32 MiB"), "{refused}");
    }
    let objects = format!("- {{objectName: a, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let well = Pod::for_tenant(&tenant).with_objects(objects);
    Client::connect(&program.socket).await.unwrap().mount(well.mount_call()).await.unwrap();
    let memory = peak_memory_mb(program.child.id().unwrap());
    assert!(memory < 300, "{memory} MB, where 1120 MB were given");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_too_large_from_one_response_use_little_memory() {
    let tenant = Tenant::new().await;
    let program = ProviderProcess::start(&["--allow-address=http://127.0.0.1:*"]).await;
    let address = large_secret_server(3 << 20).await;
    let object = |n| format!("- {{objectName: a{n}, secretPath: kv/data/db, secretKey: pass}}\n");
    let pod = |objects: String| Pod::for_tenant(&tenant).with_objects(objects).with_parameter("vaultAddress", &address);
    let mut client = Client::connect(&program.socket).await.unwrap();
    assert!(client.mount(pod(object(1)).mount_call()).await.is_ok());
    let refused = client.mount(pod((0..200).map(object).collect()).mount_call()).await.err().unwrap();
    for part in ["come to more than 8388608 bytes", "a0 (3145728 bytes)", "[VM"] {
        assert!(refused.message().contains(part), "{part}: {refused}");
    }
    let memory = peak_memory_mb(program.child.id().unwrap());
    assert!(memory < 100, "{memory} MB");
}
