// Claims and gives back connections that do nothing, as often as fits into the given milliseconds.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.PrintWriter;
import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.sql.Connection;
import java.sql.SQLException;
import java.util.logging.Logger;
import javax.sql.DataSource;

public final class HikariPeer {
    private static final int BLOCK = 1_000;

    public static void main(String[] args) throws Exception {
        long millis = Long.parseLong(args[0]);
        HikariConfig config = new HikariConfig();
        config.setDataSource(new Stub());
        config.setMaximumPoolSize(20);
        config.setMinimumIdle(20);
        try (HikariDataSource pool = new HikariDataSource(config)) {
            // The compiler of the virtual machine needs its time first.
            spin(pool, 3_000);
            ThreadMXBean threads = ManagementFactory.getThreadMXBean();
            long cpu = threads.getCurrentThreadCpuTime();
            long started = System.nanoTime();
            long n = spin(pool, millis);
            double wallNs = (double) (System.nanoTime() - started) / n;
            double cpuNs = (double) (threads.getCurrentThreadCpuTime() - cpu) / n;
            System.out.printf(java.util.Locale.ROOT, "%.3f %.3f%n", wallNs, cpuNs);
        }
    }

    private static long spin(DataSource pool, long millis) throws SQLException {
        long end = System.nanoTime() + millis * 1_000_000;
        long n = 0;
        while (System.nanoTime() < end) {
            for (int i = 0; i < BLOCK; i++) {
                pool.getConnection().close();
            }
            n += BLOCK;
        }
        return n;
    }

    /** Answers every call of a connection at once. */
    private static final InvocationHandler NOTHING = (connection, method, args) -> switch (method.getName()) {
        case "isValid", "getAutoCommit" -> true;
        case "getTransactionIsolation" -> Connection.TRANSACTION_READ_COMMITTED;
        case "hashCode" -> System.identityHashCode(connection);
        case "equals" -> connection == args[0];
        case "toString" -> "nothing";
        default -> method.getReturnType() == boolean.class ? Boolean.FALSE
            : method.getReturnType() == int.class ? (Object) 0 : null;
    };

    private static final class Stub implements DataSource {
        @Override public Connection getConnection() {
            Class<?>[] kinds = {Connection.class};
            return (Connection) Proxy.newProxyInstance(HikariPeer.class.getClassLoader(), kinds, NOTHING);
        }

        @Override public Connection getConnection(String user, String password) {
            return getConnection();
        }

        @Override public PrintWriter getLogWriter() {
            return null;
        }

        @Override public void setLogWriter(PrintWriter out) {}

        @Override public void setLoginTimeout(int seconds) {}

        @Override public int getLoginTimeout() {
            return 0;
        }

        @Override public Logger getParentLogger() {
            return Logger.getGlobal();
        }

        @Override public <T> T unwrap(Class<T> kind) {
            return null;
        }

        @Override public boolean isWrapperFor(Class<?> kind) {
            return false;
        }
    }
}
