package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// CreateUser adds a person. ErrExists when there is one of this name.
func (s *Service) CreateUser(ctx context.Context, name string, role Role, password string) (User, error) {
	if err := errors.Join(ValidUserName(name), role.Validate(), ValidPassword(name, password)); err != nil {
		return User{}, fmt.Errorf("create user %s: %w", name, err)
	}
	h, err := s.hash.hash(ctx, password)
	if err != nil {
		return User{}, fmt.Errorf("create user %s: %w", name, err)
	}
	c := Credential{User: User{Name: name, Role: role, CreatedAt: s.cfg.Now().UTC()}, PasswordHash: h}
	if err := s.store.CreateUser(ctx, c); err != nil {
		return User{}, fmt.Errorf("create user %s: %w", name, err)
	}
	return c.User, nil
}

// User returns one person.
func (s *Service) User(ctx context.Context, name string) (User, error) {
	c, err := s.store.User(ctx, name)
	if err != nil {
		return User{}, fmt.Errorf("user %s: %w", name, err)
	}
	return c.User, nil
}

// Users lists people by name, after the given one.
func (s *Service) Users(ctx context.Context, after string, limit int) ([]User, error) {
	return s.store.Users(ctx, after, limit)
}

// SetRole gives a person another role; ErrLastAdmin when nobody would be admin.
func (s *Service) SetRole(ctx context.Context, name string, role Role) error {
	if err := role.Validate(); err != nil {
		return fmt.Errorf("change role of %s: %w", name, err)
	}
	if err := s.store.SetRole(ctx, name, role); err != nil {
		return fmt.Errorf("change role of %s: %w", name, err)
	}
	return nil
}

// SetPassword gives a person another password and ends their sessions. The
// first admin's password file goes with the password it held.
func (s *Service) SetPassword(ctx context.Context, name, password string) error {
	if err := ValidPassword(name, password); err != nil {
		return fmt.Errorf("change password of %s: %w", name, err)
	}
	if err := s.setPassword(ctx, name, password); err != nil {
		return err
	}
	if name == FirstAdmin && s.cfg.PasswordFile != "" {
		if err := os.Remove(s.cfg.PasswordFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("password of %s is changed, but the file of the old one remains: %w", name, err)
		}
	}
	return nil
}

func (s *Service) setPassword(ctx context.Context, name, password string) error {
	h, err := s.hash.hash(ctx, password)
	if err == nil {
		err = s.store.SetPassword(ctx, name, h)
	}
	if err != nil {
		return fmt.Errorf("change password of %s: %w", name, err)
	}
	return nil
}

// DeleteUser removes a person with their sessions and tokens; ErrLastAdmin
// when nobody would be admin.
func (s *Service) DeleteUser(ctx context.Context, name string) error {
	if err := s.store.DeleteUser(ctx, name); err != nil {
		return fmt.Errorf("delete user %s: %w", name, err)
	}
	return nil
}

// FirstAdmin is the name of the user that a new hub starts with.
const FirstAdmin = "admin"

// Bootstrap makes FirstAdmin with a random password when there is no user at
// all, and returns that password once. The password is also kept in
// Config.PasswordFile, readable by its owner alone, until it is changed.
// Afterwards it returns "".
func (s *Service) Bootstrap(ctx context.Context) (password string, err error) {
	users, err := s.store.Users(ctx, "", 1)
	if err != nil {
		return "", fmt.Errorf("look for users: %w", err)
	}
	if len(users) > 0 {
		return "", nil
	}
	password = rand.Text()
	// The file first: a password nobody can read again would lock the hub.
	if err := s.keep(password); err != nil {
		return "", err
	}
	if _, err := s.CreateUser(ctx, FirstAdmin, Admin, password); errors.Is(err, ErrExists) {
		return "", s.forget() // another hub on the same store was faster
	} else if err != nil {
		return "", err
	}
	return password, nil
}

// Reset gives a person a new random password, for whoever has the hub's disk
// and has lost it, and makes the first admin again where there is none.
func (s *Service) Reset(ctx context.Context, name string) (password string, err error) {
	password = rand.Text()
	if name == FirstAdmin {
		if err := s.keep(password); err != nil {
			return "", err
		}
	}
	err = s.setPassword(ctx, name, password)
	if errors.Is(err, ErrNotFound) && name == FirstAdmin {
		_, err = s.CreateUser(ctx, FirstAdmin, Admin, password)
	}
	return password, err
}

func (s *Service) keep(password string) error {
	if s.cfg.PasswordFile == "" {
		return nil
	}
	tmp := s.cfg.PasswordFile + ".new"
	if err := os.MkdirAll(filepath.Dir(tmp), 0o700); err != nil {
		return fmt.Errorf("keep the first password: %w", err)
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keep the first password: %w", err)
	}
	// O_EXCL: never through a link somebody else put there.
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("keep the first password: %w", err)
	}
	_, err = f.WriteString(password + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep the first password: %w", err)
	}
	if err := os.Rename(tmp, s.cfg.PasswordFile); err != nil {
		return fmt.Errorf("keep the first password: %w", err)
	}
	return nil
}

func (s *Service) forget() error {
	if s.cfg.PasswordFile == "" {
		return nil
	}
	if err := os.Remove(s.cfg.PasswordFile); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the unused first password: %w", err)
	}
	return nil
}
