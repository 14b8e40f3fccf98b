//! The interface's description: what each handler says of itself, and what holds for all of them, said once here.

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, Response, ResponseBuilder};

use crate::api::ErrorCode;

/// The scheme of peers that come over TCP.
const CERTIFICATE: &str = "certificate";

/// Answers that operations have in common, beside their own.
struct Common {
    code: ErrorCode,
    /// `{who}` is the daemon.
    description: &'static str,
    applies: fn(&HttpMethod, &Operation) -> bool,
}

const COMMON: [Common; 8] = [
    Common {
        code: ErrorCode::BadRequest,
        description: "A path, query or body that cannot be understood, or that broke off",
        applies: |_, operation| operation.parameters.is_some() || operation.request_body.is_some(),
    },
    Common { code: ErrorCode::Forbidden, description: "Not with a certificate of this role", applies: |_, _| true },
    Common {
        code: ErrorCode::TooSlow,
        description: "The body came too slowly",
        applies: |_, operation| operation.request_body.is_some(),
    },
    Common {
        code: ErrorCode::TooLarge,
        description: "The body is too large",
        applies: |_, operation| operation.request_body.is_some(),
    },
    Common { code: ErrorCode::TooManyRequests, description: "Too many requests of one peer", applies: |_, _| true },
    Common { code: ErrorCode::Internal, description: "The {who} failed; its log says why", applies: |_, _| true },
    Common { code: ErrorCode::Unavailable, description: "The {who} is overloaded or going down", applies: |_, _| true },
    Common {
        code: ErrorCode::DiskFull,
        description: "The {who}'s disk is full",
        applies: |method, _| !matches!(method, HttpMethod::Get),
    },
];

/// Adds what holds for all operations of a daemon, which is called `who`, to the description of its routes, and says
/// what a certificate of role host is good for there.
pub(crate) fn complete(mut description: OpenApi, who: &str, hosts_may: &str) -> String {
    let components = description.components.get_or_insert_with(Components::new);
    for common in &COMMON {
        components.responses.insert(name(common.code), response(common, who).into());
    }
    let text = format!(
        "A certificate of role operator from the {who}'s own authority (`roam cert`). One of role host may {hosts_may}. \
         The unix socket needs none: who may open it may do everything."
    );
    let certificate = SecurityScheme::MutualTls { description: Some(text), deprecated: None, extensions: None };
    components.add_security_scheme(CERTIFICATE, certificate);
    let none: [&str; 0] = [];
    description.security = Some(vec![SecurityRequirement::new(CERTIFICATE, none), SecurityRequirement::default()]);
    for item in description.paths.paths.values_mut() {
        for (method, operation) in operations(item) {
            for common in &COMMON {
                if !(common.applies)(&method, operation) {
                    continue;
                }
                let reference = Ref::from_response_name(name(common.code));
                operation.responses.responses.entry(status(common.code)).or_insert(reference.into());
            }
        }
    }
    let mut text = description.to_pretty_json().expect("a description is JSON");
    text.push('\n');
    text
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let PathItem { get, put, post, delete, .. } = item;
    let all = [(HttpMethod::Get, get), (HttpMethod::Put, put), (HttpMethod::Post, post), (HttpMethod::Delete, delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn response(common: &Common, who: &str) -> Response {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    let response =
        ResponseBuilder::new().description(common.description.replace("{who}", who)).content("application/json", body);
    if common.code != ErrorCode::TooManyRequests {
        return response.build();
    }
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
    let wait = HeaderBuilder::new().schema(Some(seconds)).description(Some("When to come back, seconds")).build();
    response.header("Retry-After", wait).build()
}

/// What a common answer is called among the components.
fn name(code: ErrorCode) -> String {
    format!("{code:?}")
}

fn status(code: ErrorCode) -> String {
    code.status().to_string()
}
