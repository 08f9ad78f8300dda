// qvec from Java with the JDBC driver, without Python (Debian: apt install libpostgresql-jdbc-java):
//   java -cp /usr/share/java/postgresql.jar Search.java 'jdbc:postgresql://host/shop?user=me'
// First install the schema: qvec sql install --db "$DATABASE_URL", or: qvec sql print | psql "$DATABASE_URL"

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

public class Search {
    /** Replace this by your embedding model. It repeats a direction on a circle 32 times, in the text format of pgvector. */
    static String embed(double degrees) {
        return IntStream.range(0, 64)
                .mapToDouble(i -> Math.toRadians(degrees) + i / 2 + (i % 2 == 0 ? 0 : -Math.PI / 2))
                .mapToObj(angle -> Double.toString(Math.cos(angle)))
                .collect(Collectors.joining(",", "[", "]"));
    }

    public static void main(String[] arguments) throws SQLException {
        try (Connection db = DriverManager.getConnection(arguments[0])) {
            db.setAutoCommit(false);
            fill(db, calibrate(db));
            search(db, "{}");
            search(db, "{\"sunny\": true}");
            db.rollback(); // clean up
        }
    }

    /** Fits a calibration to vectors in a table. */
    static String calibrate(Connection db) throws SQLException {
        db.createStatement().execute("CREATE TEMP TABLE sample (embedding vector(64))");
        try (PreparedStatement insert = db.prepareStatement("INSERT INTO sample VALUES (?::vector)")) {
            for (int degrees = 0; degrees < 360; degrees++) {
                insert.setString(1, embed(degrees));
                insert.addBatch();
            }
            insert.executeBatch();
        }
        ResultSet made = db.createStatement().executeQuery("SELECT qvec.calibrate('sample', 'embedding', model => 'circle')");
        made.next();
        return made.getString(1);
    }

    /** Writes to a collection by plain INSERT: a trigger quantizes the column embedding_in. */
    static void fill(Connection db, String calibration) throws SQLException {
        try (PreparedStatement create = db.prepareStatement("SELECT qvec.create_collection('compass', ?, id_type => 'text')")) {
            create.setString(1, calibration);
            create.execute();
        }
        String sql = "INSERT INTO compass (id, embedding_in, document, metadata) VALUES (?, ?::vector, ?, ?::jsonb)";
        try (PreparedStatement insert = db.prepareStatement(sql)) {
            String[] names = {"east", "north", "west", "south"};
            for (int quarter = 0; quarter < 4; quarter++) {
                insert.setString(1, names[quarter]);
                insert.setString(2, embed(90 * quarter));
                insert.setString(3, 90 * quarter + " degrees");
                insert.setString(4, String.format("{\"sunny\": %b}", quarter != 1));
                insert.addBatch();
            }
            insert.executeBatch();
        }
    }

    /** Searches with the query and the filter as ordinary parameters. */
    static void search(Connection db, String filter) throws SQLException {
        String sql = "SELECT id, score, document FROM qvec.search('compass', ?::vector, k => 2, filter => ?::jsonb)";
        try (PreparedStatement query = db.prepareStatement(sql)) {
            query.setString(1, embed(80));
            query.setString(2, filter);
            for (ResultSet hit = query.executeQuery(); hit.next(); ) {
                System.out.printf("%s %.2f (%s)%n", hit.getString("id"), hit.getDouble("score"), hit.getString("document"));
            }
        }
    }
}
