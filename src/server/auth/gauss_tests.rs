//! Answers that the real server accepted, and requests that nobody may answer.

use super::gauss::{CODE_SHA256, CODE_SM3, Challenge, Refusal, answer, parse};
use crate::limits::AUTH_ITERATIONS_MAX;

const PASSWORD: &str = "Gauss@123";
const SHA_SALT: &str = "349508a6c224d70fda7541b719cf913205f923e31018e4a9aab950967f8d32e8";
const SM3_SALT: &str = "0f10e4a096a246d41b3fd1e8d04b5d11a1e41b886d2d18eabcf5ec67ca8d4b73";

fn request(method: u32, digits: &str, rest: &[u8]) -> Vec<u8> {
    [&method.to_be_bytes(), digits.as_bytes(), rest].concat()
}

fn answered(code: u32, request: &[u8], password: &str) -> Result<String, Refusal> {
    let challenge = parse(code, request)?;
    answer(&challenge, "bk", password).map(|text| text.to_string())
}

#[test]
fn sha256_answers_are_those_that_the_real_server_took() {
    // Sessions sha_gsql, sha_gsql_badpw and sha_backup_badpw of the recordings.
    let cases = [
        (
            "d5051879",
            PASSWORD,
            "0799d9f1584ad1a40f976728ba1f298c07383ef944ff20a24fc33d15031b0640",
        ),
        (
            "47b32d16",
            "Wrong@123",
            "dc0bed7281cf0fd0a6ad002b53e0633207276bbd3d7af48e82c0c5f0a570d8eb",
        ),
        (
            "d82d56b2",
            "Wrong@123",
            "6559f8939c7ce9a2037c5d3e7afc5c2741712e7cdfef86dd9e3657b976cd5ecd",
        ),
    ];
    for (token, password, expected) in cases {
        let request = request(2, &format!("{SHA_SALT}{token}"), &10_000_u32.to_be_bytes());
        assert_eq!(answered(CODE_SHA256, &request, password).unwrap(), expected);
    }
}

#[test]
fn sm3_answers_are_those_that_the_real_server_took() {
    // Sessions sm3_gsql and sm3_gsql_badpw.
    let cases = [
        (
            "a12e1bd8",
            PASSWORD,
            "e72c2821351783daec05d6d3b40cfbcc14243bb2e3a155c871c42c7404263f47",
        ),
        (
            "65653519",
            "Wrong@123",
            "51b9051ca06c030164ab56b57427f9ce746691ee8431be9147b63013201a327c",
        ),
    ];
    for (token, password, expected) in cases {
        let request = request(3, &format!("{SM3_SALT}{token}"), &10_000_u32.to_be_bytes());
        assert_eq!(answered(CODE_SM3, &request, password).unwrap(), expected);
    }
}

#[test]
fn proof_of_the_real_server_is_checked() {
    // The server proves itself to clients of version 3.0 only: second connections of
    // sha_gsql_badpw and sm3_gsql_badpw, where the wrong password made the client leave.
    let sha = "59c69a77650c4ae5fa9d7775ebf82baddd0488cc8dbd262e77828a5570123ff985492ee5";
    let sm3 = "9347c6c8f09b8bcc21db821ef7a5e58dec3a3915dd192d39bf3099f1cfb07e29509e5d6a";
    for (code, method, salt, digits) in [
        (CODE_SHA256, 2, SHA_SALT, sha),
        (CODE_SM3, 3, SM3_SALT, sm3),
    ] {
        let right = request(method, &format!("{salt}{digits}"), &[]);
        assert!(answered(code, &right, PASSWORD).is_ok(), "{code}");
        assert_eq!(
            answered(code, &right, "Wrong@123"),
            Err(Refusal::ServerProof)
        );
        let mut forged = right.clone();
        let last = forged.last_mut().unwrap();
        *last = if *last == b'0' { b'1' } else { b'0' };
        assert_eq!(answered(code, &forged, PASSWORD), Err(Refusal::ServerProof));
    }
}

#[test]
fn requests_that_are_none_are_refused() {
    let digits = format!("{SHA_SALT}d5051879");
    let iterations = |count: u32| count.to_be_bytes();
    let malformed = |reason| Err(Refusal::Malformed(reason));
    let cases = [
        (vec![], malformed("the request is too short")),
        (
            request(2, "", &[]),
            malformed("its salt is not hexadecimal"),
        ),
        (
            request(2, &digits.replace('d', "+"), &[]),
            malformed("its salt is not hexadecimal"),
        ),
        (
            request(2, SHA_SALT, b"d50518\xff9"),
            malformed("its token is not hexadecimal"),
        ),
        (
            request(2, &digits, b"12345"),
            malformed("the server's proof is not hexadecimal"),
        ),
        (
            request(2, &digits, &[b'a'; 65]),
            malformed("the request is too long"),
        ),
        (
            request(2, &digits, &iterations(0)),
            malformed("it asks for no iteration"),
        ),
        (
            request(1, "", b"abc"),
            malformed("the request is too short"),
        ),
        (
            request(2, &digits, &iterations(AUTH_ITERATIONS_MAX + 1)),
            Err(Refusal::TooManyIterations(AUTH_ITERATIONS_MAX + 1)),
        ),
        (request(0, "", &[]), Err(Refusal::Readable)),
        (request(3, &digits, &iterations(1)), Err(Refusal::Readable)),
    ];
    for (request, expected) in cases {
        assert_eq!(
            parse(CODE_SHA256, &request),
            expected,
            "{}",
            request.escape_ascii()
        );
    }
}

#[test]
fn password_stored_as_md5_is_hashed_twice() {
    let challenge = parse(CODE_SHA256, &request(1, "", b"salt")).unwrap();
    assert_eq!(challenge, Challenge::Md5Stored { salt: *b"salt" });
    // sha256(md5("secretbk") in hexadecimal, "salt"), by md5sum and sha256sum.
    let expected = "8dc6622cbb400d29a6e951d4202a2127741d03a33a58f55eb04309c1eee5cd2e";
    let found = answer(&challenge, "bk", "secret").unwrap();
    assert_eq!(*found, format!("sha256{expected}"));
}
