//! Servers that are sick or hostile cost one mount its time, and nothing else: no other mount, no memory, no descriptor.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use vaultmount::provider::client::Client;

use crate::support::{bao::Tenant, daemon::Program, pod::Pod};

/// What a server does once it has a request.
type Sickness = fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
/// What the mounts of sick servers have.
const TIME: Duration = Duration::from_secs(6);
/// Mounts of each at once.
const MOUNTS: usize = 12;

/// Every sickness, and what the error of a mount says of it.
const ALL: [(&str, Sickness, &str); 10] = [
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
                to.write_all(format!("{HEAD}content-length: 1000\r\n\r\n").as_bytes()).await?;
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
                to.write_all(format!("{HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
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
                to.write_all(format!("{HEAD}content-length: 1073741824\r\n\r\n").as_bytes()).await?;
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
                let head = format!("{HEAD}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
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
            Box::pin(
                async move { to.write_all(format!("{HEAD}content-length: 1000\r\n\r\n{{\"auth").as_bytes()).await },
            )
        },
        "",
    ),
    (
        "headers without end",
        |mut to| {
            Box::pin(async move {
                to.write_all(HEAD.as_bytes()).await?;
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

/// A server with a sickness; its address.
async fn sick(sickness: Sickness) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut request, mut part) = (Vec::new(), [0; 4096]);
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut part).await {
                        Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                        _ => return,
                    }
                }
                let _ = sickness(stream).await;
            });
        }
    });
    address
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The most memory it has had, in MB.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    kilobytes.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn they_cost_one_mount_its_time_and_nothing_else() {
    let tenant = Tenant::new().await;
    tenant.put("db", json!({"pass": "s3cret"})).await;
    let objects = format!("- {{objectName: a, secretPath: {}/data/db, secretKey: pass}}", tenant.kv);
    let program = Program::start(&["--allow-address=http://127.0.0.1:*"]).await;
    let pid = program.child.id().unwrap();
    let well = async || {
        let begun = Instant::now();
        let mut client = Client::connect(&program.socket).await.unwrap();
        client.version().await.unwrap();
        let mounted = client.mount(Pod::of(&tenant).objects(objects.as_str()).call()).await;
        // Whoever waited for one that is sick would take as long.
        assert!(mounted.is_ok() && begun.elapsed() < TIME, "{:?}", begun.elapsed());
    };
    well().await;
    let before = descriptors(pid);
    let mut mounts = Vec::new();
    for (name, sickness, says) in ALL {
        let address = sick(sickness).await;
        for _ in 0..MOUNTS {
            let pod = Pod::of(&tenant).objects(objects.as_str()).with("vaultAddress", &address);
            let socket = program.socket.clone();
            mounts.push(tokio::spawn(async move {
                let mut call = pod.call();
                call.timeout = Some(TIME);
                let begun = Instant::now();
                let outcome = Client::connect(&socket).await.unwrap().mount(call).await;
                let status = outcome.map(|_| ()).expect_err(name);
                let took = begun.elapsed();
                assert!(took < TIME + Duration::from_secs(1), "{name} took {took:?}");
                assert!(status.message().contains(says) && status.message().contains("[VM"), "{name}: {status}");
                assert!(!status.message().contains("eyJ"), "{name}: {status}");
                (name, status.message().to_owned())
            }));
        }
    }
    // While all of that goes on.
    let others = join_all((0..20).map(async |n| {
        sleep(Duration::from_millis(150 * n)).await;
        well().await;
    }));
    let (told, _) = tokio::join!(join_all(mounts), others);
    let mut last = "";
    for (name, text) in told.into_iter().map(Result::unwrap) {
        if last != name {
            println!("{name}: {text}");
            last = name;
        }
    }
    let memory = peak(pid);
    assert!(memory < 100, "{memory} MB");
    // Idle connections to servers that answered stay for a while: sixteen for each at most.
    let begun = Instant::now();
    while descriptors(pid) > before + 16 * 4 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} descriptors, {before} before", descriptors(pid));
        sleep(Duration::from_millis(100)).await;
    }
    well().await;
}
