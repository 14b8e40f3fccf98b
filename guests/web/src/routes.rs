//! What is where: one function a path.

use roam_sdk::abi::pattern;
use roam_sdk::time::{Instant, sleep_until};

use crate::connection::{Connection, Failure, Next, message, plain};
use crate::head::{BodyLength, Head, Method};
use crate::status::{Framing, ResponseHead, Status};
use crate::stream::StreamRequest;

/// Longest body where none is expected; it is read and dropped.
const UNEXPECTED_BODY_BYTES_MAX: u64 = 64 * 1024;
const PAGE: &str = include_str!("page.html");

/// Answers one request.
pub(crate) async fn answer(connection: &mut Connection, head: &Head) -> Result<Next, Failure> {
    match head.path.as_str() {
        "/" => page(connection, head).await,
        "/stream" => stream(connection, head).await,
        "/upload" => upload(connection, head).await,
        _ => refuse(connection, head, Status::NotFound, "there are /, /stream and /upload", None).await,
    }
}

async fn page(connection: &mut Connection, head: &Head) -> Result<Next, Failure> {
    let (Method::Get | Method::Head) = head.method else { return not_allowed(connection, head, "GET, HEAD").await };
    drop_body(connection, head).await?;
    let response = ResponseHead { content_type: "text/html; charset=utf-8", ..plain(Status::Ok, head.keep_alive) };
    connection.respond(response, PAGE.as_bytes(), head.method == Method::Head).await
}

/// Sends the bytes [`pattern::pattern`] gives for the offsets 0, 1, 2 …
async fn stream(connection: &mut Connection, head: &Head) -> Result<Next, Failure> {
    let (Method::Get | Method::Head) = head.method else { return not_allowed(connection, head, "GET, HEAD").await };
    drop_body(connection, head).await?;
    let request = match StreamRequest::parse(&head.query) {
        Ok(request) => request,
        Err(error) => return refuse(connection, head, Status::BadRequest, error, None).await,
    };
    let framing = match request.bytes {
        Some(bytes) => Framing::Length(bytes),
        None if head.old => Framing::Close,
        None => Framing::Chunked,
    };
    let keep_alive = head.keep_alive && framing != Framing::Close;
    let content_type = "application/octet-stream";
    let mut out = Vec::new();
    ResponseHead { content_type, framing, ..plain(Status::Ok, keep_alive) }.print(&mut out);
    connection.send(&out).await?;
    if head.method == Method::Get {
        send_stream(connection, &request, framing == Framing::Chunked, out).await?;
    }
    Ok(if keep_alive { Next::Request } else { Next::Close })
}

async fn send_stream(
    connection: &Connection,
    request: &StreamRequest,
    chunked: bool,
    mut out: Vec<u8>,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut offset = 0;
    loop {
        let bytes = request.slice_bytes(offset);
        if bytes == 0 {
            return Ok(());
        }
        sleep_until(start + request.due(offset)).await;
        out.clear();
        if chunked {
            out.extend_from_slice(format!("{bytes:x}\r\n").as_bytes());
        }
        let data = out.len();
        out.resize(data + bytes as usize, 0);
        pattern::fill(&mut out[data..], offset);
        if chunked {
            out.extend_from_slice(b"\r\n");
        }
        connection.send(&out).await?;
        offset += bytes;
    }
}

/// Takes a body of any size and returns its length and digest.
async fn upload(connection: &mut Connection, head: &Head) -> Result<Next, Failure> {
    let (Method::Post | Method::Put) = head.method else { return not_allowed(connection, head, "POST, PUT").await };
    let mut digest = blake3::Hasher::new();
    let bytes = connection.body(head, u64::MAX, |piece| _ = digest.update(piece)).await?;
    let answer = format!("{{\"bytes\":{bytes},\"blake3\":\"{}\"}}\n", digest.finalize().to_hex());
    let response = ResponseHead { content_type: "application/json", ..plain(Status::Ok, head.keep_alive) };
    connection.respond(response, answer.as_bytes(), false).await
}

async fn not_allowed(connection: &mut Connection, head: &Head, allow: &'static str) -> Result<Next, Failure> {
    refuse(connection, head, Status::MethodNotAllowed, format!("here it is {allow}"), Some(allow)).await
}

async fn refuse(
    connection: &mut Connection,
    head: &Head,
    status: Status,
    why: impl std::fmt::Display,
    allow: Option<&'static str>,
) -> Result<Next, Failure> {
    // A client that asked first gets its answer without having sent the body, which then never comes.
    if !head.expects_continue {
        drop_body(connection, head).await?;
    }
    let keep_alive = head.keep_alive && !head.expects_continue;
    let response = ResponseHead { allow, ..plain(status, keep_alive) };
    connection.respond(response, message(status, why).as_bytes(), head.method == Method::Head).await
}

/// Reads a body nobody wants, as the next request comes after it.
async fn drop_body(connection: &mut Connection, head: &Head) -> Result<(), Failure> {
    match head.body {
        BodyLength::Known(bytes) if bytes > UNEXPECTED_BODY_BYTES_MAX => {
            Err(Failure::BodyTooLarge(UNEXPECTED_BODY_BYTES_MAX))
        }
        _ => connection.body(head, UNEXPECTED_BODY_BYTES_MAX, |_| ()).await.map(drop),
    }
}
