//! The signed examples of RFC 7515 (appendix A) and RFC 8037 (appendix A.4).

use serde_json::{Value, json};
use tidegate_auth::{Algorithm, AuthError, Identity};

use crate::support::{build, jwks};

/// `{"iss":"joe","exp":1300819380,"http://example.com/is_root":true}`, the payload of A.1 to A.3.
const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const EXP_MS: u64 = 1_300_819_380_000;

const A1_HEADER: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
const A1_SIGNATURE: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const A2_HEADER: &str = "eyJhbGciOiJSUzI1NiJ9";
const A2_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const A3_HEADER: &str = "eyJhbGciOiJFUzI1NiJ9";
const A3_SIGNATURE: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

fn a1_key() -> Value {
    json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"})
}

fn a2_key() -> Value {
    json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"})
}

fn a3_key() -> Value {
    json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
}

fn read(algorithm: Algorithm, key: &Value, token: &str, now_ms: u64) -> Result<Identity, AuthError> {
    let mut jwt = jwks(algorithm, &json!({"keys": [key]}));
    jwt.user_claim = "iss".into();
    jwt.leeway_s = 0;
    build(jwt).unwrap().token(token, now_ms)
}

fn check(algorithm: Algorithm, key: fn() -> Value, header: &str, signature: &str) {
    let token = format!("{header}.{PAYLOAD}.{signature}");
    let joe = read(algorithm, &key(), &token, EXP_MS - 1).unwrap();
    assert_eq!(
        (&*joe.user, joe.expires_at_ms),
        ("joe", Some(EXP_MS)),
        "{algorithm}"
    );
    assert_eq!(joe.claim("http://example.com/is_root"), Some(&Value::Bool(true)));
    assert_eq!(
        read(algorithm, &key(), &token, EXP_MS),
        Err(AuthError::Expired { ago_s: 0 }),
        "{algorithm}"
    );

    let first = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{header}.{PAYLOAD}.{first}{}", &signature[1..]);
    assert_eq!(
        read(algorithm, &key(), &forged, EXP_MS - 1),
        Err(AuthError::Signature),
        "{algorithm}"
    );
}

#[test]
fn rfc_7515_a_1_hmac() {
    check(Algorithm::Hs256, a1_key, A1_HEADER, A1_SIGNATURE);
}

#[test]
fn rfc_7515_a_2_rsa() {
    check(Algorithm::Rs256, a2_key, A2_HEADER, A2_SIGNATURE);
}

#[test]
fn rfc_7515_a_3_ecdsa() {
    check(Algorithm::Es256, a3_key, A3_HEADER, A3_SIGNATURE);
}

/// The payload of this example is a sentence: a right signature is told by the complaint about the payload.
#[test]
fn rfc_8037_a_4_ed25519() {
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let right = read(Algorithm::EdDsa, &key, &format!("{signed}.{signature}"), 0);
    assert_eq!(right, Err(AuthError::Malformed { what: "token" }));
    let wrong = read(
        Algorithm::EdDsa,
        &key,
        &format!("{signed}.A{}", &signature[1..]),
        0,
    );
    assert_eq!(wrong, Err(AuthError::Signature));
}
