//! Secrets. Their values appear in no message and no log.

use crate::apimachinery::Cause;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Builtin, Resource, ResourceError, age_column, column, core};
use crate::apiserver::{cause, names};

/// Of all values together, decoded.
const MAX_SIZE: usize = 1 << 20;

pub(super) fn resource() -> Result<Resource, ResourceError> {
    let fields = json!({
        "data": {
            "type": "object",
            "additionalProperties": { "type": "string", "format": "byte" },
            "description": "The values by their names, in base64.",
        },
        "stringData": {
            "type": "object",
            "additionalProperties": { "type": "string" },
            "description": "Values as they are, for writing: they are put into data.",
        },
        "type": { "type": "string", "description": "What the secret is for; Opaque unless said otherwise." },
        "immutable": { "type": "boolean", "description": "Whether data can no longer be changed." },
    });
    let resource = core(Builtin::Secret, "Secret", &[], &fields)?;
    Ok(Resource {
        columns: vec![
            column("Type", "type", "What the secret is for.", 0),
            column("Data", "data", "How many values there are.", 0),
            age_column(),
        ],
        selectable: vec!["type".to_owned()],
        ..resource
    })
}

pub(super) fn printed(stored: &Value) -> Value {
    json!({ "type": stored.get("type"), "data": data(stored).map_or(0, Map::len).to_string() })
}

/// Moves `stringData` into `data`, and checks that all of that is base64.
pub(super) fn prepare(new: &mut Value) -> Result<(), String> {
    let Some(object) = new.as_object_mut() else { return Ok(()) };
    if let Some(Value::Object(texts)) = object.remove("stringData") {
        let data = object.entry("data").or_insert_with(|| json!({}));
        if data.is_null() {
            *data = json!({});
        }
        if let Some(data) = data.as_object_mut() {
            data.extend(texts.iter().map(|(name, text)| {
                (name.clone(), json!(STANDARD.encode(text.as_str().unwrap_or_default())))
            }));
        }
    }
    if object.get("type").is_none_or(|kind| kind.is_null() || kind == "") {
        object.insert("type".into(), json!("Opaque"));
    }
    if object.get("data").is_some_and(Value::is_null) {
        object.remove("data");
    }
    for (name, value) in data(new).into_iter().flatten() {
        if decode(value).is_none() {
            return Err(format!("illegal base64 data at data.{name}"));
        }
    }
    Ok(())
}

pub(super) fn validate(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    for (name, value) in data(new).into_iter().flatten() {
        let field = format!("data[{name}]");
        causes.extend(names::config_key(name).iter().map(|why| cause::invalid(&field, &json!(name), why)));
        size += decode(value).map_or(0, |value| value.len());
    }
    if size > MAX_SIZE {
        causes.push(cause::too_long("data", MAX_SIZE));
    }
    causes.extend(validate_type(new));
    if let Some(old) = old {
        if new.get("type") != old.get("type") {
            let kind = new.get("type").unwrap_or(&Value::Null);
            causes.push(cause::invalid("type", kind, "field is immutable"));
        }
        if old.get("immutable") == Some(&Value::Bool(true)) {
            let why = "field is immutable when `immutable` is set";
            if new.get("immutable") != Some(&Value::Bool(true)) {
                causes.push(cause::forbidden("immutable", why));
            }
            if new.get("data") != old.get("data") {
                causes.push(cause::forbidden("data", why));
            }
        }
    }
    causes
}

/// What the well-known types promise to those who use them.
fn validate_type(secret: &Value) -> Vec<Cause> {
    let has = |name: &str| data(secret).is_some_and(|data| data.contains_key(name));
    let missing = |names: &[&str]| -> Vec<Cause> {
        let missing = names.iter().filter(|name| !has(name));
        missing.map(|name| cause::required(&format!("data[{name}]"), "")).collect()
    };
    match secret.get("type").and_then(Value::as_str).unwrap_or_default() {
        "kubernetes.io/dockerconfigjson" => docker_config(secret, ".dockerconfigjson"),
        "kubernetes.io/dockercfg" => docker_config(secret, ".dockercfg"),
        "kubernetes.io/tls" => missing(&["tls.crt", "tls.key"]),
        "kubernetes.io/ssh-auth" => missing(&["ssh-privatekey"]),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            missing(&["username", "password"])
        }
        _ => Vec::new(),
    }
}

fn docker_config(secret: &Value, name: &str) -> Vec<Cause> {
    let field = format!("data[{name}]");
    let Some(value) = data(secret).and_then(|data| data.get(name)) else {
        return vec![cause::required(&field, "")];
    };
    let is_json = decode(value).is_some_and(|value| serde_json::from_slice::<Value>(&value).is_ok());
    if is_json {
        Vec::new()
    } else {
        vec![cause::invalid(&field, &json!("<secret contents redacted>"), "it is no JSON")]
    }
}

fn data(secret: &Value) -> Option<&Map<String, Value>> {
    secret.get("data")?.as_object()
}

fn decode(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_data_and_win_over_it() {
        let mut secret = json!({ "data": { "a": "AA==", "b": "AA==" }, "stringData": { "a": "x" } });
        prepare(&mut secret).unwrap();
        assert_eq!(secret, json!({ "type": "Opaque", "data": { "a": "eA==", "b": "AA==" } }));
    }

    #[test]
    fn what_is_no_base64_is_refused_without_being_shown() {
        let error = prepare(&mut json!({ "data": { "password": "hunter2!" } })).unwrap_err();
        assert!(error.contains("password") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_immutable_secret_stays_as_it_is() {
        let old = json!({ "type": "Opaque", "immutable": true, "data": { "a": "AA==" } });
        assert!(validate(&old, Some(&old)).is_empty());
        assert_eq!(validate(&json!({ "type": "Opaque", "data": {} }), Some(&old)).len(), 2);
    }

    #[test]
    fn the_well_known_types_have_what_they_promise() {
        let pull = |data: Value| json!({ "type": "kubernetes.io/dockerconfigjson", "data": data });
        assert_eq!(validate(&pull(json!({})), None).len(), 1);
        assert_eq!(validate(&pull(json!({ ".dockerconfigjson": "eA==" })), None).len(), 1);
        assert!(validate(&pull(json!({ ".dockerconfigjson": "e30=" })), None).is_empty());
        assert_eq!(validate(&json!({ "type": "kubernetes.io/tls" }), None).len(), 2);
    }
}
