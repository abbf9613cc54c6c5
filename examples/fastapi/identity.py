"""Who a browser is: a signed cookie, set by the login page."""

import hashlib
import hmac
import os
from http.cookies import CookieError, SimpleCookie

COOKIE = "chat_user"
SECRET = os.environ.get("CHAT_SECRET", "only for trying it out").encode()


def sign(user):
    return f"{user}.{hmac.new(SECRET, user.encode(), hashlib.sha256).hexdigest()}"


def user_of(cookies):
    """The user that a `Cookie` header names, or None."""
    try:
        morsel = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return None
    user, _, _ = morsel.value.rpartition(".") if morsel else ("", "", "")
    return user if user and hmac.compare_digest(sign(user), morsel.value) else None
