package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/swellfleet/swell/cloud/api/apigen"
	"github.com/swellfleet/swell/cloud/api/apimodel"
	"github.com/swellfleet/swell/cloud/auth"
)

func sessionOf(p auth.Principal) apimodel.Session {
	return apimodel.Session{User: p.User, Role: apimodel.Role(p.Role), CsrfToken: some(p.CSRF), ExpiresAt: at(p.ExpiresAt)}
}

// GetSession says who asks.
func (s *Server) GetSession(ctx context.Context, _ apigen.GetSessionRequestObject) (apigen.GetSessionResponseObject, error) {
	return apigen.GetSession200JSONResponse(sessionOf(callerOf(ctx).Principal)), nil
}

func (s *Server) cookie(value string, maxAge int) *string {
	c := http.Cookie{Name: sessionCookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: s.cfg.Secure, SameSite: http.SameSiteStrictMode}
	text := c.String()
	return &text
}

// Login starts a browser's session.
func (s *Server) Login(ctx context.Context, r apigen.LoginRequestObject) (apigen.LoginResponseObject, error) {
	who := callerOf(ctx)
	cookie, p, err := s.cfg.Auth.Login(ctx, who.remote, r.Body.User, r.Body.Password)
	if err != nil {
		return nil, err
	}
	if who.cookie != "" {
		if err := s.cfg.Auth.Logout(ctx, who.cookie); err != nil { // a new login leaves no old session behind
			return nil, err
		}
	}
	return apigen.Login200JSONResponse{
		Body:    sessionOf(p),
		Headers: apigen.Login200ResponseHeaders{SetCookie: s.cookie(cookie, int(p.ExpiresAt.Sub(s.cfg.Now()).Seconds()))},
	}, nil
}

// Logout ends a browser's session.
func (s *Server) Logout(ctx context.Context, _ apigen.LogoutRequestObject) (apigen.LogoutResponseObject, error) {
	who := callerOf(ctx)
	if who.cookie == "" {
		return nil, conflict("an API token has no session: revoke it with DELETE " + Prefix + "/api-tokens/" + who.TokenID)
	}
	if err := s.cfg.Auth.Logout(ctx, who.cookie); err != nil {
		return nil, err
	}
	return apigen.Logout204Response{Headers: apigen.Logout204ResponseHeaders{SetCookie: s.cookie("", -1)}}, nil
}

func userOf(u auth.User) apimodel.User {
	return apimodel.User{Name: u.Name, Role: apimodel.Role(u.Role), CreatedAt: u.CreatedAt, LastLoginAt: at(u.LastLoginAt)}
}

// ListUsers lists people by name.
func (s *Server) ListUsers(ctx context.Context, r apigen.ListUsersRequestObject) (apigen.ListUsersResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	list, err := s.cfg.Auth.Users(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	list, next := page(list, limit, func(u auth.User) string { return u.Name })
	out := apimodel.UserList{Items: make([]apimodel.User, len(list)), NextCursor: next}
	for i, u := range list {
		out.Items[i] = userOf(u)
	}
	return apigen.ListUsers200JSONResponse(out), nil
}

// CreateUser adds a person.
func (s *Server) CreateUser(ctx context.Context, r apigen.CreateUserRequestObject) (apigen.CreateUserResponseObject, error) {
	b := r.Body
	if err := errors.Join(auth.ValidUserName(b.Name), auth.ValidPassword(b.Name, b.Password)); err != nil {
		return nil, invalid(err.Error())
	}
	if _, err := s.cfg.Auth.User(ctx, b.Name); err == nil {
		return nil, auth.ErrExists
	} else if !errors.Is(err, auth.ErrNotFound) {
		return nil, err
	}
	if value(r.Params.DryRun) {
		return apigen.CreateUser201JSONResponse(apimodel.User{Name: b.Name, Role: b.Role, CreatedAt: s.cfg.Now().UTC()}), nil
	}
	if err := s.audit(ctx, "user.create", "User/"+b.Name, value(r.Params.Reason), map[string]string{"role": string(b.Role)}); err != nil {
		return nil, err
	}
	u, err := s.cfg.Auth.CreateUser(ctx, b.Name, auth.Role(b.Role), b.Password)
	if err != nil {
		return nil, err
	}
	return apigen.CreateUser201JSONResponse(userOf(u)), nil
}

// GetUser shows a person.
func (s *Server) GetUser(ctx context.Context, r apigen.GetUserRequestObject) (apigen.GetUserResponseObject, error) {
	u, err := s.cfg.Auth.User(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	return apigen.GetUser200JSONResponse(userOf(u)), nil
}

// UpdateUser changes role, password or both.
func (s *Server) UpdateUser(ctx context.Context, r apigen.UpdateUserRequestObject) (apigen.UpdateUserResponseObject, error) {
	u, err := s.cfg.Auth.User(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	if r.Body.Password != nil {
		if err := auth.ValidPassword(r.Name, *r.Body.Password); err != nil {
			return nil, invalid(err.Error())
		}
	}
	detail := map[string]string{}
	if r.Body.Role != nil {
		detail["role"] = string(*r.Body.Role)
		u.Role = auth.Role(*r.Body.Role)
	}
	if r.Body.Password != nil {
		detail["password"] = "changed"
	}
	if value(r.Params.DryRun) || len(detail) == 0 {
		return apigen.UpdateUser200JSONResponse(userOf(u)), nil
	}
	if err := s.audit(ctx, "user.update", "User/"+r.Name, value(r.Params.Reason), detail); err != nil {
		return nil, err
	}
	if r.Body.Role != nil {
		if err := s.cfg.Auth.SetRole(ctx, r.Name, u.Role); err != nil {
			return nil, err
		}
	}
	if r.Body.Password != nil {
		if err := s.cfg.Auth.SetPassword(ctx, r.Name, *r.Body.Password); err != nil {
			return nil, err
		}
	}
	return apigen.UpdateUser200JSONResponse(userOf(u)), nil
}

// DeleteUser removes a person with their sessions and tokens.
func (s *Server) DeleteUser(ctx context.Context, r apigen.DeleteUserRequestObject) (apigen.DeleteUserResponseObject, error) {
	if _, err := s.cfg.Auth.User(ctx, r.Name); err != nil {
		return nil, err
	}
	if value(r.Params.DryRun) {
		return apigen.DeleteUser204Response{}, nil
	}
	if err := s.audit(ctx, "user.delete", "User/"+r.Name, value(r.Params.Reason), nil); err != nil {
		return nil, err
	}
	if err := s.cfg.Auth.DeleteUser(ctx, r.Name); err != nil {
		return nil, err
	}
	return apigen.DeleteUser204Response{}, nil
}

func tokenOf(t auth.Token) apimodel.APIToken {
	return apimodel.APIToken{ID: t.ID, User: t.User, Name: t.Name, Role: apimodel.Role(t.Role), CreatedAt: t.CreatedAt, ExpiresAt: at(t.ExpiresAt), LastUsedAt: at(t.LastUsedAt)}
}

// ListAPITokens lists one's own tokens; an admin sees everybody's.
func (s *Server) ListAPITokens(ctx context.Context, r apigen.ListAPITokensRequestObject) (apigen.ListAPITokensResponseObject, error) {
	after, err := placeOf(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := limitOf(r.Params.Limit)
	list, err := s.cfg.Auth.Tokens(ctx, callerOf(ctx).Principal, after, limit+1)
	if err != nil {
		return nil, err
	}
	list, next := page(list, limit, func(t auth.Token) string { return t.ID })
	out := apimodel.APITokenList{Items: make([]apimodel.APIToken, len(list)), NextCursor: next}
	for i, t := range list {
		out.Items[i] = tokenOf(t)
	}
	return apigen.ListAPITokens200JSONResponse(out), nil
}

// CreateAPIToken makes a token.
func (s *Server) CreateAPIToken(ctx context.Context, r apigen.CreateAPITokenRequestObject) (apigen.CreateAPITokenResponseObject, error) {
	who := callerOf(ctx)
	user := value(r.Body.User)
	if user == "" {
		user = who.User
	}
	if err := s.audit(ctx, "token.create", "User/"+user, value(r.Params.Reason), map[string]string{"name": r.Body.Name, "role": string(r.Body.Role)}); err != nil {
		return nil, err
	}
	t, secret, err := s.cfg.Auth.CreateToken(ctx, who.Principal, user, r.Body.Name, auth.Role(r.Body.Role), seconds(r.Body.TTLSeconds))
	if err != nil {
		return nil, err
	}
	return apigen.CreateAPIToken201JSONResponse(apimodel.APITokenCreated{Token: tokenOf(t), Secret: secret}), nil
}

// RevokeAPIToken deletes a token.
func (s *Server) RevokeAPIToken(ctx context.Context, r apigen.RevokeAPITokenRequestObject) (apigen.RevokeAPITokenResponseObject, error) {
	if err := s.audit(ctx, "token.revoke", "Token/"+r.ID, value(r.Params.Reason), nil); err != nil {
		return nil, err
	}
	if err := s.cfg.Auth.RevokeToken(ctx, callerOf(ctx).Principal, r.ID); err != nil {
		return nil, err
	}
	return apigen.RevokeAPIToken204Response{}, nil
}
